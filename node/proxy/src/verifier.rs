//! Having the kernel's verifier look at a program.

use std::io;

use aya::programs::{Program, ProgramError};

/// How often loading is tried when a signal interrupts the verifier.
const ATTEMPTS: u32 = 5;

/// Loads a program of any type that the object has.
pub(crate) fn load(program: &mut Program) -> Result<(), ProgramError> {
    for _ in 1..ATTEMPTS {
        match once(program) {
            // A signal came while the verifier was at work.
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
    once(program)
}

fn once(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
