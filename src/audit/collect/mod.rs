//! Looks at what the audit judges, each question with a limit of its own.

mod processes;
