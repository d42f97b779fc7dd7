//! Field and label selectors: which objects a list or watch sees.
//!
//! In: the `fieldSelector` and `labelSelector` of a request. Out: a predicate, or the sentence with which a real
//! server answers 400.

use serde_json::Value;

/// A parsed pair of selectors; the default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    /// JSON pointer into the object.
    pointer: String,
    want: Want,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Want {
    Equal(String),
    NotEqual(String),
    Present,
    Absent,
}

impl Selector {
    /// Parses both selectors; empty text selects everything.
    pub fn parse(fields: &str, labels: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for text in parts(fields) {
            terms.push(field_term(text)?);
        }
        for text in parts(labels) {
            terms.push(label_term(text)?);
        }
        Ok(Self { terms })
    }

    /// Whether `object` is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| term.matches(object))
    }

    /// The object's name, when the selector asks for exactly one by name.
    pub fn single_name(&self) -> Option<&str> {
        self.terms.iter().find_map(|term| match &term.want {
            Want::Equal(name) if term.pointer == "/metadata/name" => Some(name.as_str()),
            _ => None,
        })
    }
}

impl Term {
    fn matches(&self, object: &Value) -> bool {
        let found = object.pointer(&self.pointer).and_then(Value::as_str);
        match &self.want {
            Want::Equal(value) => found == Some(value),
            Want::NotEqual(value) => found != Some(value),
            Want::Present => found.is_some(),
            Want::Absent => found.is_none(),
        }
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn field_term(text: &str) -> Result<Term, String> {
    let (key, want) = split(text).ok_or_else(|| format!("invalid field selector: {text:?}"))?;
    match key {
        "metadata.name" | "metadata.namespace" => {
            Ok(Term { pointer: format!("/{}", key.replace('.', "/")), want })
        }
        other => Err(format!("field label not supported: {other}")),
    }
}

fn label_term(text: &str) -> Result<Term, String> {
    if text.contains('(') || text.contains(' ') {
        return Err(format!("set-based label selector {text:?} is not simulated"));
    }
    let (key, want) = match (split(text), text.strip_prefix('!')) {
        (Some(found), _) => found,
        (None, Some(key)) => (key, Want::Absent),
        (None, None) => (text, Want::Present),
    };
    Ok(Term { pointer: format!("/metadata/labels/{}", key.replace('~', "~0").replace('/', "~1")), want })
}

fn split(text: &str) -> Option<(&str, Want)> {
    if let Some((key, value)) = text.split_once("!=") {
        return Some((key, Want::NotEqual(value.to_owned())));
    }
    let (key, value) = text.split_once("==").or_else(|| text.split_once('='))?;
    Some((key, Want::Equal(value.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object() -> Value {
        json!({"metadata": {"name": "a", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}}})
    }

    fn matches(fields: &str, labels: &str) -> bool {
        Selector::parse(fields, labels).unwrap().matches(&object())
    }

    #[test]
    fn equality_of_names_and_labels() {
        assert!(matches("", ""));
        assert!(matches("metadata.name=a", ""));
        assert!(matches("metadata.name==a,metadata.namespace=default", ""));
        assert!(!matches("metadata.name=b", ""));
        assert!(!matches("metadata.name!=a", ""));
        assert!(matches("", "kubernetes.io/service-name=kubernetes"));
        assert!(!matches("", "kubernetes.io/service-name=other"));
        assert!(matches("", "kubernetes.io/service-name"));
        assert!(!matches("", "!kubernetes.io/service-name"));
        assert!(matches("", "x!=y"));
    }

    #[test]
    fn what_a_server_refuses() {
        assert_eq!(Selector::parse("spec.x=1", "").unwrap_err(), "field label not supported: spec.x");
        assert!(Selector::parse("metadata.name", "").is_err());
        assert!(Selector::parse("", "a in (b,c)").is_err());
    }

    #[test]
    fn a_single_name_is_known() {
        let one = Selector::parse("metadata.name=kubernetes", "").unwrap();
        assert_eq!(one.single_name(), Some("kubernetes"));
        assert_eq!(Selector::default().single_name(), None);
    }
}
