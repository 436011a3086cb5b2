//! Shutdown signals: SIGINT (Ctrl-C) and SIGTERM; and SIGHUP.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Shells report a program ended by signal N with exit code 128 + N.
const EXIT_CODE_OF_SIGNALS: u8 = 128;

/// A signal that requests the shutdown of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownSignal {
    /// SIGINT, by Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl ShutdownSignal {
    /// The exit code that a shell reports for this signal, so that it does not matter whether the process handled it.
    pub fn exit_code(self) -> u8 {
        let signal = match self {
            ShutdownSignal::Interrupt => 2,
            ShutdownSignal::Terminate => 15,
        };
        EXIT_CODE_OF_SIGNALS + signal
    }
}

/// Receives the shutdown signals. Once it exists, they do not terminate the process by themselves.
pub struct ShutdownSignals(Option<(Signal, Signal)>);

impl ShutdownSignals {
    /// Must be called on a tokio runtime.
    #[allow(clippy::new_without_default)] // `Default` would need no runtime.
    pub fn new() -> ShutdownSignals {
        let both = signal(SignalKind::interrupt()).ok().zip(signal(SignalKind::terminate()).ok());
        if both.is_none() {
            tracing::warn!("cannot install signal handlers; signals terminate the process immediately");
        }
        ShutdownSignals(both)
    }

    /// Waits for the next signal; forever if the handlers could not be installed. Cancel safe.
    pub async fn next(&mut self) -> ShutdownSignal {
        match &mut self.0 {
            None => std::future::pending().await,
            Some((interrupt, terminate)) => tokio::select! {
                _ = interrupt.recv() => ShutdownSignal::Interrupt,
                _ = terminate.recv() => ShutdownSignal::Terminate,
            },
        }
    }

    /// Waits for a second signal and exits immediately, without a graceful shutdown.
    pub async fn end_at_once(&mut self) -> ! {
        let signal = self.next().await;
        std::process::exit(signal.exit_code().into())
    }
}

/// Receives SIGHUP, which makes a daemon reload its configuration. Once it exists, SIGHUP does not terminate the process.
pub(crate) struct HangUps(Option<Signal>);

impl HangUps {
    /// Must be called on a tokio runtime.
    pub(crate) fn new() -> HangUps {
        HangUps(signal(SignalKind::hangup()).ok())
    }

    /// Waits for the next signal; forever if the handler could not be installed.
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
    fn exit_codes_are_those_that_shells_report() {
        let of_shells = |signal: Signal| EXIT_CODE_OF_SIGNALS as i32 + signal.as_raw();
        assert_eq!(i32::from(ShutdownSignal::Interrupt.exit_code()), of_shells(Signal::INT));
        assert_eq!(i32::from(ShutdownSignal::Terminate.exit_code()), of_shells(Signal::TERM));
    }
}
