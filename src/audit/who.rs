//! For whom an apiserver takes a request, as its answer tells. Pure.

use super::ask::Answer;

/// A path that no apiserver has. Who may not read it is told by name; who may is told that it is not there.
pub const NOWHERE: &str = "/apivip-audit";

/// For whom a request to [`NOWHERE`] was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// For nobody: 401.
    Nobody,
    /// For `system:anonymous`.
    Anonymous,
    /// For this user, who may not read it.
    User(String),
    /// For somebody who may read everything: it looked, and did not find it.
    Allowed,
    /// The answer does not tell: this status.
    Unclear(u16),
}

impl Who {
    /// Reads an answer to a GET of [`NOWHERE`].
    pub fn of(answer: &Answer) -> Self {
        match answer.status {
            401 => Self::Nobody,
            403 => match user(answer.json()["message"].as_str().unwrap_or_default()) {
                Some("system:anonymous") => Self::Anonymous,
                Some(user) => Self::User(user.to_owned()),
                None => Self::Unclear(403),
            },
            200 | 404 => Self::Allowed,
            other => Self::Unclear(other),
        }
    }

    /// As a part of a sentence.
    pub fn taken_for(&self) -> String {
        match self {
            Self::Nobody => "refused (401)".to_owned(),
            Self::Anonymous => "taken for system:anonymous".to_owned(),
            Self::User(user) => format!("taken for {user}"),
            Self::Allowed => "taken for somebody who may read any path".to_owned(),
            Self::Unclear(status) => format!("answered with {status}"),
        }
    }
}

/// `forbidden: User "x" cannot get path "/y"`.
fn user(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("User \"")?;
    rest.split_once("\" cannot").map(|(user, _)| user)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn of(status: u16, user: &str) -> Who {
        let message = format!("forbidden: User {user:?} cannot get path \"/apivip-audit\"");
        let body = serde_json::json!({"kind": "Status", "message": message}).to_string();
        Who::of(&Answer { status, headers: HeaderMap::new(), body: Bytes::from(body), cut: false })
    }

    #[test]
    fn an_answer_tells_for_whom_it_is() {
        assert_eq!(of(401, ""), Who::Nobody);
        assert_eq!(of(403, "system:anonymous"), Who::Anonymous);
        assert_eq!(of(403, "system:node:a"), Who::User("system:node:a".to_owned()));
        assert_eq!((of(404, ""), of(200, "")), (Who::Allowed, Who::Allowed));
        assert_eq!(of(500, ""), Who::Unclear(500));
        let odd = Answer { status: 403, headers: HeaderMap::new(), body: Bytes::from("no"), cut: false };
        assert_eq!(Who::of(&odd), Who::Unclear(403));
    }
}
