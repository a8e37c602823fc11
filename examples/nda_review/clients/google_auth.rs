//! Access tokens of a Google service account: a signed assertion (RFC 7523) for a token that lasts an hour.
//!
//! Source: <https://developers.google.com/identity/protocols/oauth2/service-account>.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use forge::core::secret::Secret;
use forge::core::{Clock, TenantId, Timestamp};
use forge::{Error, ErrorKind, ExecutionContext, Result};
use forge_http::{HttpClient, Request};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::json;

const SCOPE: &str = "https://www.googleapis.com/auth/drive.readonly";
/// A token is renewed this long before it ends.
const EARLY: Duration = Duration::from_secs(60);

/// The key file of a service account. No `Debug`: it holds the key.
#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: String,
    private_key_id: String,
    token_uri: String,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

/// Tokens by tenant.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<TenantId, (Secret, Timestamp)>>);

impl Tokens {
    /// A token that is good for a minute at least.
    pub(super) async fn get(
        &self,
        ctx: &ExecutionContext,
        http: &HttpClient,
        key_file: &Secret,
        clock: &dyn Clock,
    ) -> Result<Secret> {
        let now = clock.now();
        if let Some((token, ends)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(ctx.tenant())
            && now.after(EARLY) < *ends
        {
            return Ok(token.clone());
        }
        let (token, ends) = exchange(ctx, http, key_file, now).await?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(ctx.tenant().clone(), (token.clone(), ends));
        Ok(token)
    }

    /// The token was refused: the next call asks for another.
    pub(super) fn forget(&self, tenant: &TenantId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }
}

async fn exchange(
    ctx: &ExecutionContext,
    http: &HttpClient,
    key_file: &Secret,
    now: Timestamp,
) -> Result<(Secret, Timestamp)> {
    let account: ServiceAccount = serde_json::from_str(key_file.expose()).map_err(|_| {
        Error::new(ErrorKind::Config, "drive.token", "the secret is not the key file of a service account")
    })?;
    let seconds = now.as_millis() / 1000;
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": account.private_key_id });
    let claims = json!({ "iss": account.client_email, "scope": SCOPE, "aud": account.token_uri, "iat": seconds, "exp": seconds + 3600 });
    let unsigned =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let assertion = format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(sign(&account.private_key, unsigned.as_bytes())?));
    let grant = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
    let answer = http.send(ctx, "drive.token", Request::post(&account.token_uri)?.form(&grant)).await?;
    if answer.status() == 400 {
        // invalid_grant: the key, the clock or the account is wrong, and stays wrong
        return Err(Error::new(
            ErrorKind::Unauthenticated,
            "drive.token",
            "google does not accept the service account",
        ));
    }
    let granted: Granted = answer.success("drive.token")?.json("drive.token")?;
    Ok((Secret::new(granted.access_token), now.after(Duration::from_secs(granted.expires_in))))
}

fn sign(pem: &str, message: &[u8]) -> Result<Vec<u8>> {
    let wrong = || Error::new(ErrorKind::Config, "drive.token", "the private key is no RSA key in PKCS#8");
    let base64: String = pem.lines().filter(|l| !l.starts_with("-----")).map(str::trim).collect();
    let der = STANDARD.decode(base64).map_err(|_| wrong())?;
    let key = RsaKeyPair::from_pkcs8(&der).map_err(|_| wrong())?;
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).map_err(|_| wrong())?;
    Ok(signature)
}
