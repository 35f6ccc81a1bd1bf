//! stub
use crate::runtime::survive::*;
macro_rules! stub { ($t:ty) => { impl Survive for $t { fn save(&mut self, _: Extent, _: &mut Blocks) {} fn load(&mut self, _: &[u8]) -> Result<(), Corrupt> { Ok(()) } } } }
stub!(crate::decode::Decoder); stub!(crate::pseudonymise::Pseudonymiser); stub!(crate::patient::Stage); stub!(crate::score::Scorer);
