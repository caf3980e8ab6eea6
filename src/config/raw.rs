//! (under construction)
use super::*;
pub(super) fn load(_path: &Path) -> Result<Config, Report> {
    unimplemented!()
}
