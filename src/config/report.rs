//! (under construction)
/// One problem.
#[derive(Clone, Debug)]
pub struct Problem;
/// All problems.
#[derive(Clone, Debug)]
pub struct Report(pub Vec<Problem>);
