//! What a program of Kubernetes was started with. Pure.

use std::collections::BTreeMap;

/// Flags by name, without the dashes. Of one that is given several times the last counts, as it does for the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    values: BTreeMap<String, String>,
}

impl Flags {
    /// Reads a command line, with or without the program's name. `--flag=value`, `--flag value` and `--flag` are known.
    pub fn read<S: AsRef<str>>(line: &[S]) -> Self {
        let mut values = BTreeMap::new();
        let mut words = line.iter().map(AsRef::as_ref).peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--").filter(|flag| !flag.is_empty()) else { continue };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                // A flag that is followed by a word which is none has that for a value; switches come with `=`.
                None => (flag, words.next_if(|next| !next.starts_with('-')).unwrap_or("true").to_owned()),
            };
            values.insert(name.replace('_', "-"), value);
        }
        Self { values }
    }

    /// The value of a flag that is given, and is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// That of a switch; `None` if it is not given, or says neither.
    pub fn switch(&self, name: &str) -> Option<bool> {
        match self.get(name)?.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Some(true),
            "false" | "f" | "0" => Some(false),
            _ => None,
        }
    }
}

impl FromIterator<(String, String)> for Flags {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self { values: pairs.into_iter().collect() }
    }
}

/// Whether a command line is that of `program`: its own name, or the first word of a program that is several.
pub fn is_program<S: AsRef<str>>(line: &[S], program: &str) -> bool {
    let base = |word: &S| word.as_ref().rsplit('/').next().is_some_and(|name| name == program);
    line.first().is_some_and(base)
        || (line.first().is_some_and(|first| first.as_ref().ends_with("hyperkube"))
            && line.get(1).is_some_and(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_in_each_form() {
        let line =
            ["/usr/bin/kubelet", "--a=1", "--b", "two", "--c", "--d=", "--a=3", "-v=2", "--e_f=FALSE", "--"];
        let flags = Flags::read(&line);
        assert_eq!((flags.get("a"), flags.get("b"), flags.get("c")), (Some("3"), Some("two"), Some("true")));
        assert_eq!((flags.get("d"), flags.get("v"), flags.switch("e-f")), (None, None, Some(false)));
        assert_eq!((flags.switch("b"), flags.switch("c"), flags.switch("x")), (None, Some(true), None));
    }

    #[test]
    fn a_program_is_known_by_its_name() {
        assert!(is_program(&["/usr/bin/kubelet", "--x"], "kubelet"));
        assert!(is_program(&["/hyperkube", "kubelet"], "kubelet"));
        assert!(!is_program(&["vi", "kubelet"], "kubelet") && !is_program::<&str>(&[], "kubelet"));
    }
}
