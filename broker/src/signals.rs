//! Shutdown signals: Ctrl-C from a user, SIGTERM from a supervisor.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A shell adds this to the number of the signal that ended a program.
const EXIT_CODE_OF_SIGNALS: u8 = 128;

/// The signal that asked the program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownSignal {
    /// SIGINT, by Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl ShutdownSignal {
    /// The exit code that shells use for a program ended by this signal, so that callers see no difference.
    pub fn exit_code(self) -> u8 {
        let signal = match self {
            ShutdownSignal::Interrupt => 2,
            ShutdownSignal::Terminate => 15,
        };
        EXIT_CODE_OF_SIGNALS + signal
    }
}

/// The signals that ask a program to shut down. Once it is created they no longer end the process by
/// themselves.
pub struct ShutdownSignals(Option<(Signal, Signal)>);

impl ShutdownSignals {
    /// Must be called on a tokio runtime.
    #[allow(clippy::new_without_default)] // `Default` would need no runtime.
    pub fn new() -> ShutdownSignals {
        let both = signal(SignalKind::interrupt()).ok().zip(signal(SignalKind::terminate()).ok());
        if both.is_none() {
            tracing::warn!("signals cannot be received; they end the process at once");
        }
        ShutdownSignals(both)
    }

    /// Waits for the next one; forever if signals cannot be received, in which case they end the process. A
    /// dropped call loses nothing.
    pub async fn next(&mut self) -> ShutdownSignal {
        match &mut self.0 {
            None => std::future::pending().await,
            Some((interrupt, terminate)) => tokio::select! {
                _ = interrupt.recv() => ShutdownSignal::Interrupt,
                _ = terminate.recv() => ShutdownSignal::Terminate,
            },
        }
    }

    /// Waits for the next one and ends the process at once: it is the second request to end.
    pub async fn end_at_once(&mut self) -> ! {
        let ending = self.next().await;
        std::process::exit(ending.exit_code().into())
    }
}

/// SIGHUP, which asks a daemon to reload its configuration. Once it is created the signal no longer ends the
/// process.
pub(crate) struct HangUps(Option<Signal>);

impl HangUps {
    /// Must be called on a tokio runtime.
    pub(crate) fn new() -> HangUps {
        HangUps(signal(SignalKind::hangup()).ok())
    }

    /// Waits for the next one; forever if signals cannot be received.
    pub(crate) async fn next(&mut self) {
        match &mut self.0 {
            Some(hangups) => drop(hangups.recv().await),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::Signal;

    use super::*;

    #[test]
    fn an_exit_code_is_what_shells_say_of_the_signal() {
        let of_shells = |signal: Signal| EXIT_CODE_OF_SIGNALS as i32 + signal.as_raw();
        assert_eq!(i32::from(ShutdownSignal::Interrupt.exit_code()), of_shells(Signal::INT));
        assert_eq!(i32::from(ShutdownSignal::Terminate.exit_code()), of_shells(Signal::TERM));
    }
}
