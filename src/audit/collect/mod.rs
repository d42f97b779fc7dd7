//! Looks at what the audit judges, each question with a limit of its own.

pub(super) mod kubelet;
mod kubelet_files;
mod processes;
