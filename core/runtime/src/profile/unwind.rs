//! From a sample to the calls that led there, by the compiler's tables for unwinding (DWARF 5, section 6.4).

use gimli::{CfaRule, Register, RegisterRule, UnwindContext, UnwindSection};

use super::modules::{Module, Modules, number};
use crate::sys::{REGISTERS, STACK_POINTER, Sample};

/// Frames that are followed.
const MOST: usize = 256;
/// Where the return address is found: a column of its own, or the link register.
const RETURN: Register = Register(if cfg!(target_arch = "x86_64") { 16 } else { 30 });

/// Follows stacks; keeps what it needs for that.
#[derive(Default)]
pub(super) struct Unwinder {
    context: Box<UnwindContext<usize>>,
    frames: Vec<u64>,
}

/// The registers of one frame, as far as they are known.
struct Frame<'a> {
    pc: u64,
    registers: [Option<u64>; REGISTERS],
    /// What is known of the stack, and where that begins.
    stack: &'a [u8],
    from: u64,
}

impl Unwinder {
    /// The addresses of the sample's frames, the innermost first; of callers, that to which the call returns.
    pub(super) fn frames(&mut self, modules: &Modules, sample: &Sample) -> &[u64] {
        let registers = sample.registers.map(Some);
        let from = registers.get(usize::from(STACK_POINTER)).copied().flatten().unwrap_or_default();
        let mut frame = Frame { pc: sample.pc, registers, stack: sample.stack(), from };
        self.frames.clear();
        while self.frames.len() < MOST && frame.pc != 0 {
            self.frames.push(frame.pc);
            // A call may be the last of its function.
            let within = if self.frames.len() == 1 { frame.pc } else { frame.pc - 1 };
            let Some(next) = modules.at(within).and_then(|module| frame.caller(module, within, &mut self.context)) else { break };
            frame = next;
        }
        &self.frames
    }
}

impl<'a> Frame<'a> {
    fn register(&self, register: Register) -> Option<u64> {
        self.registers.get(usize::from(register.0)).copied().flatten()
    }

    fn read(&self, address: u64) -> Option<u64> {
        number(self.stack, usize::try_from(address.checked_sub(self.from)?).ok()?, 8)
    }

    /// The frame that called this one; none at the outermost, or where the tables do not say.
    fn caller(&self, module: &Module, address: u64, context: &mut UnwindContext<usize>) -> Option<Frame<'a>> {
        let (index, frames, bases) = module.tables()?;
        let index = index.parse(bases, 8).ok()?;
        let row = index.table()?.unwind_info_for_address(&frames, bases, context, address, |section, bases, offset| {
            section.cie_from_offset(bases, offset)
        });
        let row = row.ok()?;
        let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return None };
        let end = self.register(*register)?.checked_add_signed(*offset)?;
        let mut registers = self.registers;
        for (register, rule) in row.registers() {
            let value = match rule {
                RegisterRule::SameValue => self.register(*register),
                RegisterRule::Offset(offset) => end.checked_add_signed(*offset).and_then(|at| self.read(at)),
                RegisterRule::ValOffset(offset) => end.checked_add_signed(*offset),
                RegisterRule::Register(other) => self.register(*other),
                _ => None,
            };
            if let Some(place) = registers.get_mut(usize::from(register.0)) {
                *place = value;
            }
        }
        let pc = match row.register(RETURN) {
            RegisterRule::Offset(offset) => self.read(end.checked_add_signed(offset)?)?,
            // A function that calls nothing leaves it where it was; the outermost says that there is none.
            RegisterRule::Undefined if cfg!(target_arch = "aarch64") => self.register(RETURN)?,
            RegisterRule::SameValue => self.register(RETURN)?,
            _ => return None,
        };
        *registers.get_mut(usize::from(STACK_POINTER))? = Some(end);
        // Each frame is above the one it calls, but for a first that has none of its own yet.
        let before = self.register(Register(STACK_POINTER))?;
        (end > before || (end == before && pc != self.pc)).then_some(Frame { pc, registers, stack: self.stack, from: self.from })
    }
}
