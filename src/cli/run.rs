use super::Failure;
pub(super) fn run(_args: impl Sized) -> Result<(), Failure> { Ok(()) }
