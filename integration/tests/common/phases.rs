//! The phases of a suite on one cluster: each goes on where the one before has left it, and none begins once one has failed.

use std::mem::replace;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Failed, Trial};

/// What the phases of a suite go through.
pub trait World: Sized + Send + 'static {
    /// What is made before the bed is entered, from which nothing can be downloaded.
    type Prepared: Send + 'static;

    /// Starts it, for the first phase.
    fn start(prepared: Self::Prepared) -> anyhow::Result<Self>;

    /// Ends it; an error says what is left.
    fn stop(self) -> anyhow::Result<()>;
}

enum State<W: World> {
    Prepared(Box<anyhow::Result<W::Prepared>>),
    Running(Box<W>),
    /// Why no further phase begins.
    Over(String),
}

/// What the phases share.
pub struct Shared<W: World>(Arc<Mutex<State<W>>>);

impl<W: World> Shared<W> {
    pub fn new(prepared: anyhow::Result<W::Prepared>) -> Self {
        Self(Arc::new(Mutex::new(State::Prepared(Box::new(prepared)))))
    }

    /// A phase that does `body`.
    pub fn phase(&self, name: &'static str, body: impl FnOnce(&W) -> anyhow::Result<()> + Send + 'static) -> Trial {
        let shared = Self(Arc::clone(&self.0));
        Trial::test(name, move || {
            let world = match shared.put(State::Over(format!("this phase did not end: {name}"))) {
                State::Prepared(prepared) => (*prepared).and_then(W::start).map(Box::new),
                State::Running(world) => Ok(world),
                State::Over(reason) => Err(anyhow::anyhow!("{reason}")),
            };
            let failed = |error: anyhow::Error| {
                shared.put(State::Over(format!("this phase has failed: {name}")));
                Failed::from(format!("{error:?}"))
            };
            let world = world.map_err(&failed)?;
            match body(&world) {
                Ok(()) => drop(shared.put(State::Running(world))),
                Err(error) => {
                    return Err(failed(match world.stop() {
                        Ok(()) => error,
                        Err(left) => error.context(left.to_string()),
                    }));
                }
            }
            Ok(())
        })
    }

    /// Runs the phases, and ends what they have left running.
    pub fn run(self, phases: Vec<Trial>) -> ExitCode {
        let code = ambit_integration::run(phases);
        if let State::Running(world) = self.put(State::Over("it has ended".to_owned()))
            && let Err(error) = world.stop()
        {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
        code
    }

    fn put(&self, state: State<W>) -> State<W> {
        replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), state)
    }
}
