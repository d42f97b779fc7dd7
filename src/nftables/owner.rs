//! Whom the kernel's table belongs to: everybody, or the socket that made it. Pure.
//!
//! In: what the operator wants, and the flags that the kernel's table has. Out: the flags of the next table, and whether
//! an update can bring them about.

use super::kernel::table::{FLAG_DORMANT, FLAG_OWNER, FLAG_PERSIST};

/// Whose the table is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// Nobody's: every program with the privilege may change it.
    #[default]
    Plain,
    /// The socket's. Others may read it, and it outlives the socket as an orphan, which anybody may change and the next
    /// owner takes in.
    Owned,
}

impl Ownership {
    /// The flags of such a table. Owner alone would let the table go with its process.
    pub fn flags(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Owned => FLAG_OWNER | FLAG_PERSIST,
        }
    }

    /// Whether a table with these flags can take on those of `self` and stay. The kernel never changes the flag persist
    /// of a table that exists, and gives an owner to orphans only (`nf_tables_updtable`).
    pub fn fits(self, flags: u32) -> bool {
        match self {
            Self::Plain => flags & !FLAG_DORMANT == 0,
            Self::Owned => flags & FLAG_PERSIST != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_orphan_is_taken_in_and_only_a_plain_table_stays_plain() {
        let (plain, orphan, owned) = (0, FLAG_PERSIST, FLAG_OWNER | FLAG_PERSIST);
        assert!(Ownership::Plain.fits(plain) && Ownership::Plain.fits(FLAG_DORMANT));
        assert!(!Ownership::Plain.fits(orphan) && !Ownership::Plain.fits(owned));
        assert!(Ownership::Owned.fits(orphan) && Ownership::Owned.fits(owned));
        assert!(!Ownership::Owned.fits(plain) && !Ownership::Owned.fits(FLAG_OWNER));
    }

    #[test]
    fn the_flags_come_together_or_not_at_all() {
        assert_eq!(Ownership::default().flags(), 0);
        assert_eq!(Ownership::Owned.flags(), FLAG_OWNER | FLAG_PERSIST);
    }
}
