//! The OAuth token endpoint, for service accounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use forge_core::{Clock, SystemClock};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use rsa::traits::PublicKeyParts;
use serde_json::{Value, json};

use super::{Account, Shared, id, now};
use crate::record::Recorded;
use crate::serve::{Refusal, faulty, refusal};

const SCOPE: &str = "https://www.googleapis.com/auth/drive.readonly";
/// Seconds.
const TOKEN_LIFE: u64 = 3600;

/// RFC 7523 as Google speaks it.
pub(super) async fn token(State(shared): State<Arc<Shared>>, Form(form): Form<BTreeMap<String, String>>) -> Response {
    let (nth, play) = shared.record.next("token");
    let log = |who: Option<String>, outcome: &str| {
        let request = json!({ "grant_type": form.get("grant_type") });
        shared.record.append(Recorded {
            route: "token".into(),
            nth,
            who,
            request,
            outcome: outcome.into(),
            effect: None,
        });
    };
    let words = |why| match why {
        Refusal::Status(code) => (code, json!({ "error": "temporarily_unavailable" })),
        Refusal::Named(error) => (400, json!({ "error": error })),
    };
    if let Some(refused) = refusal(play, words) {
        log(None, "fault");
        return refused;
    }
    match grant(&shared, &form) {
        Ok((account, token)) => {
            log(Some(account), "ok");
            let answer = Json(json!({ "access_token": token, "expires_in": TOKEN_LIFE - 1, "token_type": "Bearer" }))
                .into_response();
            faulty(play, answer).await
        }
        Err(why) => {
            log(None, why);
            (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant", "error_description": why })))
                .into_response()
        }
    }
}

fn grant(shared: &Shared, form: &BTreeMap<String, String>) -> Result<(String, String), &'static str> {
    if form.get("grant_type").map(String::as_str) != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return Err("unsupported_grant_type");
    }
    let assertion = form.get("assertion").ok_or("no assertion")?;
    let mut parts = assertion.split('.');
    let (Some(head), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("the assertion is no JWT");
    };
    let json = |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
    let (header, claims) = (json(head).ok_or("the header is no JSON")?, json(body).ok_or("the claims are no JSON")?);
    if header["alg"] != "RS256" {
        return Err("the algorithm is not RS256");
    }
    let account = claims["iss"].as_str().ok_or("no issuer")?.to_owned();
    let mut drive = shared.drive();
    let Account { key, key_id } = drive.accounts.get(&account).ok_or("unknown account")?;
    if header["kid"] != key_id.as_str() {
        return Err("the key is not one of the account's");
    }
    let public = RsaPublicKeyComponents { n: key.n().to_bytes_be(), e: key.e().to_bytes_be() };
    let signed = format!("{head}.{body}");
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "the signature is not base64url")?;
    public
        .verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
        .map_err(|_| "the signature is not the account's")?;
    let (iat, exp) = (claims["iat"].as_u64().ok_or("no iat")?, claims["exp"].as_u64().ok_or("no exp")?);
    let now = now();
    if iat > now + 60 || exp <= now || exp > iat + 3600 {
        return Err("iat and exp are not within an hour of now");
    }
    if claims["aud"].as_str() != shared.token_uri.get().map(String::as_str) {
        return Err("the audience is not the token endpoint");
    }
    if !claims["scope"].as_str().is_some_and(|s| s.split(' ').any(|s| s == SCOPE)) {
        return Err("the scope does not allow reading");
    }
    drive.issued += 1;
    let token = format!(
        "ya29.{}",
        id(&[account.as_bytes(), &drive.issued.to_be_bytes(), &SystemClock.now().as_nanos().to_be_bytes()])
    );
    drive.tokens.insert(token.clone(), (account.clone(), now + TOKEN_LIFE));
    Ok((account, token))
}
