//! What can be wrong with the configuration, each as one line that says what, where, why and what to do.

use std::path::PathBuf;

/// The access to the API is not configured in a usable way.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file that is absent, forbidden or a directory.
    #[error("read {what} {}: {cause}", path.display())]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it cannot be read.
        cause: String,
    },
    /// A kubeconfig that is no YAML, or YAML that is no kubeconfig.
    #[error("kubeconfig {} is not a kubeconfig in YAML: {cause}", path.display())]
    NotAKubeconfig {
        /// The kubeconfig.
        path: PathBuf,
        /// What the parser says.
        cause: String,
    },
    /// A kubeconfig without content.
    #[error("kubeconfig {} is empty; write it again, for example with kubeadm or kubectl config", path.display())]
    Empty {
        /// The kubeconfig.
        path: PathBuf,
    },
    /// A kubeconfig that leaves the context open.
    #[error("kubeconfig {} has no current-context; choose one of: {known}", path.display())]
    NoContext {
        /// The kubeconfig.
        path: PathBuf,
        /// The contexts that it has.
        known: String,
    },
    /// A name that leads nowhere.
    #[error("kubeconfig {} has no {kind} named {name:?}; it has: {known}", path.display())]
    Unknown {
        /// The kubeconfig.
        path: PathBuf,
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name that was looked for.
        name: String,
        /// The names that it has.
        known: String,
    },
    /// A cluster or user entry that cannot be used.
    #[error("kubeconfig {}, {entry}: {problem}", path.display())]
    Entry {
        /// The kubeconfig.
        path: PathBuf,
        /// Which entry.
        entry: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A CA bundle that holds no certificate, or a broken one.
    #[error("{place}: {problem}")]
    Certificates {
        /// Where the certificates are.
        place: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Not in a Pod, or in one without a service account.
    #[error(
        "{problem}; this is how a Pod reaches the API: outside of a Pod name a kubeconfig with --kubeconfig FILE"
    )]
    NotInCluster {
        /// What is absent.
        problem: String,
    },
}
