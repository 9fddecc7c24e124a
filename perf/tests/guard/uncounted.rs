//! What could not be counted, and whether that may be.

use std::{
    env,
    io::{self, Write as _},
};

/// Why something was not counted.
#[derive(Debug)]
pub enum Uncounted {
    /// A program is missing; `package` has it.
    Program { name: &'static str, package: &'static str, error: io::Error },
    /// The kernel or the processor is not one for it.
    Machine(String),
}

impl Uncounted {
    /// Says so where it is seen although the test passes: the harness keeps what such a test prints, but not what goes past it. Where
    /// everything has to be counted (`CI=true`) what could be installed has to be there.
    pub fn tell(&self, what: &str) {
        let why = match self {
            Self::Program { name, package, error } => {
                let why = format!("the program `{name}` cannot be run ({error}); please run: apt-get install {package}");
                assert!(env::var("CI").as_deref() != Ok("true"), "{what}: NOT COUNTED: {why}");
                why
            }
            Self::Machine(why) => why.clone(),
        };
        let _nobody_listens = writeln!(io::stderr(), "\n{what}: NOT COUNTED: {why}\n");
    }
}
