//! How a command that owns processes is told to stop: Ctrl-C, SIGTERM, or the terminal being closed. Each of them has
//! to be caught, because the default action would end us without `Drop`, and our nodes would live on.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a command, caught from the moment this is made.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Ctrl-C. A terminal sends it to the whole foreground group, so our nodes have it too.
    Interrupt,
    /// SIGTERM, to us alone.
    Terminate,
    /// The terminal is gone; as with Ctrl-C, the whole group was told.
    Hangup,
}

impl Asked {
    /// The exit code that shells expect of a command ended by this signal.
    pub(crate) fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::Hangup => 129,
        }
    }
}

impl Stop {
    /// Starts to catch the signals. Fails only where the system has no more handlers to give.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the first of them.
    pub(crate) async fn asked(&mut self) -> Asked {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.hangup.recv() => Asked::Hangup,
        }
    }
}
