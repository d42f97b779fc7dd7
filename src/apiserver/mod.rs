//! The Kubernetes API as apivip sees it.
