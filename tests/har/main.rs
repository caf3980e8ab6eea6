//! Tests of the real program.
