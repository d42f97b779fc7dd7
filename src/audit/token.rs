//! What a service account's token claims (RFC 7519). Pure. Nothing of it is verified here: the apiserver does that.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::catalogue::AuditCheck;
use super::catalogue::requests::{TOKEN_AUDIENCE, TOKEN_BINDING, TOKEN_LIFETIME};
use crate::check::report::Finding;
use crate::status::duration;

/// Tokens that kubelets renew live for an hour by default, and for a year and a bit if the apiserver extends them.
const LONG: i64 = 25 * 3600;

/// What it claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Seconds since 1970, as all times.
    issued: Option<i64>,
    end: Option<i64>,
    /// The time from which on kubelet and clients should have renewed a token that was made to live longer.
    renew: Option<i64>,
    audiences: Vec<String>,
    pod: Option<String>,
    node: Option<String>,
    secret: Option<String>,
}

/// Reads them; `None` if it is not a signed token.
pub fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (_, payload, _) =
        (parts.next()?, parts.next()?, parts.next().filter(|signature| !signature.is_empty())?);
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let own = &claims["kubernetes.io"];
    let name = |value: &Value| Some(plain_text(value["name"].as_str()?));
    let audiences = match &claims["aud"] {
        Value::String(one) => vec![plain_text(one)],
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(plain_text).collect(),
        _ => Vec::new(),
    };
    Some(Claims {
        issued: claims["iat"].as_i64(),
        end: claims["exp"].as_i64(),
        renew: own["warnafter"].as_i64(),
        audiences,
        pod: name(&own["pod"]),
        node: name(&own["node"]),
        secret: claims["kubernetes.io/serviceaccount/secret.name"].as_str().map(plain_text),
    })
}

fn plain_text(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// The same token with another signature. The character is not the last, of which not every bit counts.
pub fn damaged(token: &str) -> String {
    let at = token.rfind('.').map_or(0, |dot| dot + 1);
    let (head, signature) = token.split_at(at);
    let mut signature: Vec<char> = signature.chars().collect();
    let middle = signature.len() / 2;
    match signature.get_mut(middle) {
        Some(character) => *character = if *character == 'A' { 'B' } else { 'A' },
        None => signature.push('A'),
    }
    signature.iter().fold(head.to_owned(), |mut all, character| {
        all.push(*character);
        all
    })
}

/// A token that no one made, for a node that has none.
pub fn made_up() -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims =
        r#"{"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:kube-system:apivip-audit"}"#;
    format!("{}.{}.{}", part(r#"{"alg":"RS256","kid":"apivip-audit"}"#), part(claims), part(&"x".repeat(256)))
}

/// All findings about the token of this node's credentials; without one nothing can be said.
pub fn findings(token: Option<&str>, now: i64) -> [Finding; 3] {
    let none = |why: &str| {
        [&TOKEN_LIFETIME, &TOKEN_AUDIENCE, &TOKEN_BINDING].map(|check: &AuditCheck| {
            check.unknown(why, "run apivip-audit in a Pod, or with a kubeconfig whose user has a tokenFile")
        })
    };
    let Some(token) = token else { return none("the credentials contain no token") };
    match claims(token) {
        Some(claims) => [lifetime(&claims, now), audience(&claims), binding(&claims)],
        None => none("the token is not a token that an API server signed"),
    }
}

fn lifetime(claims: &Claims, now: i64) -> Finding {
    let Some(end) = claims.end else { return TOKEN_LIFETIME.fail("it never expires") };
    let left = end.saturating_sub(now);
    if left < 0 {
        return TOKEN_LIFETIME.fail(format!("it expired {} ago", duration(left.unsigned_abs()))).with_fix(
            "find out why the kubelet does not renew it: kubectl describe pod; or correct the clock of this node",
        );
    }
    let whole = end.saturating_sub(claims.issued.unwrap_or(now));
    let text = format!("it expires in {}", duration(left.unsigned_abs()));
    if whole <= LONG {
        return TOKEN_LIFETIME.pass(text);
    }
    let long = format!("{text}, and was issued for {}", duration(whole.unsigned_abs()));
    match claims.renew {
        Some(renew) => TOKEN_LIFETIME
            .fail(format!("{long}: the API server extended a token that should be renewed after {}", duration(renew.saturating_sub(claims.issued.unwrap_or(renew)).unsigned_abs())))
            .with_severity(crate::check::report::Severity::Low)
            .with_fix("--service-account-extend-token-expiration=false of kube-apiserver, once every client reads its token again"),
        None => TOKEN_LIFETIME.fail(long),
    }
}

fn audience(claims: &Claims) -> Finding {
    match claims.audiences.as_slice() {
        [] => TOKEN_AUDIENCE.fail("it names no audience"),
        [one] => TOKEN_AUDIENCE.pass(one.as_str()),
        // An apiserver with several --api-audiences puts all of its own into a token that asks for none.
        several => TOKEN_AUDIENCE.fail(format!("it names {}", several.join(", "))),
    }
}

fn binding(claims: &Claims) -> Finding {
    match (&claims.pod, &claims.node, &claims.secret) {
        (Some(pod), Some(node), _) => TOKEN_BINDING.pass(format!("to Pod {pod} on node {node}")),
        (Some(pod), None, _) => TOKEN_BINDING.pass(format!("to Pod {pod}")),
        (None, _, Some(secret)) => TOKEN_BINDING.fail(format!("it comes from Secret {secret}")),
        (None, ..) => TOKEN_BINDING.fail("to no object: it stays valid until it expires"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::report::Verdict::{self, Fail, Pass, Unknown};

    const NOW: i64 = 1_000_000_000;

    fn verdicts(claims: &Value) -> [Verdict; 3] {
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
        findings(Some(&token), NOW).map(|finding| finding.verdict)
    }

    #[test]
    fn each_kind_of_token_has_its_verdicts() {
        let bound =
            serde_json::json!({"pod": {"name": "apivip-x"}, "node": {"name": "a"}, "warnafter": NOW + 3607});
        let projected =
            |end: i64| serde_json::json!({"iat": NOW, "exp": end, "aud": ["api"], "kubernetes.io": bound});
        assert_eq!(verdicts(&projected(NOW + 3600)), [Pass; 3]);
        assert_eq!(verdicts(&projected(NOW + 31_536_000)), [Fail, Pass, Pass]);
        assert_eq!(verdicts(&projected(NOW - 1)), [Fail, Pass, Pass]);
        let secret = serde_json::json!({"kubernetes.io/serviceaccount/secret.name": "apivip-token-x"});
        assert_eq!(verdicts(&secret), [Fail; 3]);
        let several = serde_json::json!({"iat": NOW, "exp": NOW + 60, "aud": ["api", "vault"]});
        assert_eq!(verdicts(&several), [Pass, Fail, Fail]);
        for none in [None, Some("abcdef.0123456789abcdef"), Some("opaque"), Some("a.b.c")] {
            assert_eq!(findings(none, NOW).map(|finding| finding.verdict), [Unknown; 3], "{none:?}");
        }
    }

    #[test]
    fn damaged_token_differs_only_in_signature() {
        let token = made_up();
        let other = damaged(&token);
        let (head, _) = token.rsplit_once('.').unwrap();
        assert!(other.starts_with(head) && other != token && other.len() == token.len());
        assert!(claims(&token).is_some() && claims(&other).is_some());
    }

    proptest::proptest! {
        #[test]
        fn no_token_panics(token: String) {
            proptest::prop_assert!(damaged(&token) != token);
            let _ = findings(Some(&token), NOW);
        }
    }
}
