use super::Failure;
pub(super) fn status(_args: impl Sized) -> Result<(), Failure> { Ok(()) }
