//! The `apivip` command.

fn main() {}
