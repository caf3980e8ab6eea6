//! One test for every bug that was found after a release, named after what went wrong.
//!
//! A test here fails without the mend. What was never released is tested with its subject instead.
