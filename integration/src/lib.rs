//! The harness that proves apivip from the outside.
