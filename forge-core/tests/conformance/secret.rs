//! Secrets: those that a host holds, the environment's and files.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use forge_core::secret::{EnvSecrets, FileSecrets, Secret, SecretProvider, SecretRef, StaticSecrets};
use forge_core::testing::{Fixture, SecretFixture, secret_provider};
use forge_core::{ErrorKind, Result};

fn reference(text: &str) -> SecretRef {
    text.parse().unwrap()
}

#[tokio::test]
async fn secrets_that_the_host_holds() {
    secret_provider(async || {
        let held = StaticSecrets::default().with("db", Secret::new("hunter2")).with("empty", Secret::new(""));
        SecretFixture::new(held)
            .holding(reference("mem:db"), "hunter2")
            .without(reference("mem:DB"))
            .unfit(reference("mem:empty"))
    })
    .await;
}

/// A test cannot set a variable (that is unsafe), but cargo has set some.
#[tokio::test]
async fn secrets_in_the_environment() {
    secret_provider(async || {
        SecretFixture::new(EnvSecrets)
            .holding(reference("env:CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_DESCRIPTION"))
            .without(reference("env:FORGE_NO_SUCH_VARIABLE"))
            .unfit(reference("env:CARGO_PKG_HOMEPAGE"))
    })
    .await;
    assert_eq!(env!("CARGO_PKG_HOMEPAGE"), "", "the unfit one is an empty one");
}

fn put(dir: &Path, name: &str, contents: impl AsRef<[u8]>) -> SecretRef {
    let path = dir.join(name);
    std::fs::write(&path, contents).unwrap();
    reference(&format!("file:{}", path.display()))
}

#[tokio::test]
async fn secrets_in_files() {
    secret_provider(async || {
        let dir = tempfile::tempdir().unwrap();
        let at = &dir.path().to_owned();
        let provider: Arc<dyn SecretProvider> = Arc::new(FileSecrets);
        let mut f = SecretFixture::new(Fixture::new(provider).keeping(dir));
        let largest = "k".repeat(64 * 1024);
        // one line end is the editor's; what else is there is the secret's own
        let texts = [
            ("plain", "hunter2", "hunter2"),
            ("unix", "hunter2\n", "hunter2"),
            ("dos", "hunter2\r\n", "hunter2"),
            ("two", "hunter2\n\n", "hunter2\n"),
            ("pem", "-----BEGIN-----\nabc\n-----END-----\n", "-----BEGIN-----\nabc\n-----END-----"),
            ("spaces", " hunter2 \t", " hunter2 \t"),
            ("return", "hunter2\r", "hunter2\r"),
            ("largest", largest.as_str(), largest.as_str()),
        ];
        for (name, contents, value) in texts {
            f = f.holding(put(at, name, contents), value);
        }
        let unfit = [
            put(at, "empty", ""),
            put(at, "line", "\n"),
            put(at, "not-text", b"hunter2\xff"),
            put(at, "huge", "k".repeat(64 * 1024 + 1)),
            reference(&format!("file:{}", at.display())),
        ];
        for unfit in unfit.into_iter().chain(endless()) {
            f = f.unfit(unfit);
        }
        f.without(reference(&format!("file:{}", at.join("none").display()))).without(put_under_a_file(at))
    })
    .await;
}

/// A path that goes on behind a file.
fn put_under_a_file(dir: &Path) -> SecretRef {
    let file = put(dir, "file", "x");
    reference(&format!("{file}/none"))
}

/// Where reading would never end.
fn endless() -> Option<SecretRef> {
    Path::new("/dev/zero").exists().then(|| reference("file:/dev/zero"))
}

#[tokio::test]
async fn a_file_that_was_changed_is_fetched_as_changed() {
    let dir = tempfile::tempdir().unwrap();
    for value in ["old", "new"] {
        let at = put(dir.path(), "rotated", value);
        assert_eq!(FileSecrets.fetch(&at).await.unwrap().expose(), value);
    }
}

/// Written by what is traced.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_others_may_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let at = put(dir.path(), "secret", "hunter2");
    for (mode, warned) in [(0o600, false), (0o400, false), (0o640, false), (0o644, true), (0o620, true), (0o602, true)]
    {
        std::fs::set_permissions(at.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let tracing = tracing::subscriber::set_default(subscriber);
        let secret: Result<Secret> = FileSecrets.fetch(&at).await;
        drop(tracing);
        assert_eq!(secret.unwrap().expose(), "hunter2", "{mode:o}: read all the same");
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.contains("WARN") && text.contains(&at.to_string()), warned, "{mode:o}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let e = FileSecrets.fetch(&reference(&format!("file:{}", path.display()))).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
}
