//! A certificate authority, by `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority of its own and a certificate that it gave to a server; good for two days.
#[derive(Debug)]
pub struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    /// Makes one whose server is `localhost` and `127.0.0.1`.
    ///
    /// # Panics
    /// If `openssl` cannot: run `scripts/servers.sh`.
    pub fn new() -> Self {
        Self::naming("DNS:localhost,IP:127.0.0.1")
    }

    /// Makes one whose server has other names, such as `DNS:redis.example`.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn naming(names: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let made = Self { dir };
        let at = made.dir.path();
        std::fs::write(at.join("server.ext"), format!("subjectAltName={names}\n")).expect("it can be written");
        openssl(at, &[&NEW_KEY[..], &["-x509", "-subj", "/CN=an authority", "-keyout", "ca.key", "-out", "ca.pem"]]);
        openssl(at, &[&NEW_KEY[..], &["-subj", "/CN=redis", "-keyout", "server.key", "-out", "server.csr"]]);
        let sign = ["x509", "-req", "-in", "server.csr", "-extfile", "server.ext", "-days", "2", "-out", "server.pem"];
        openssl(at, &[&sign[..], &["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]]);
        made
    }

    /// The authority's certificate, as PEM; what a client trusts.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The server's certificate, as PEM.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("server.pem")
    }

    /// The server's private key, as PEM.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("server.key")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

const NEW_KEY: [&str; 8] = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];

fn openssl(at: &Path, args: &[&[&str]]) {
    let run = Command::new("openssl").current_dir(at).args(args.concat()).output();
    let run = run.unwrap_or_else(|e| panic!("openssl cannot be started ({e}): run scripts/servers.sh"));
    assert!(run.status.success(), "openssl: {}", String::from_utf8_lossy(&run.stderr));
}
