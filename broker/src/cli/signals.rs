//! Being told to end: Ctrl-C by people, SIGTERM by whatever supervises programs.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a command to end in order. While it is there, they do not end the process by themselves.
pub(super) struct Endings(Option<(Signal, Signal)>);

impl Endings {
    /// Must be called on a tokio runtime.
    pub(super) fn new() -> Endings {
        Endings(signal(SignalKind::interrupt()).ok().zip(signal(SignalKind::terminate()).ok()))
    }

    /// Waits for the next one; for ever where signals cannot be heard, and then they end the process.
    pub(super) async fn next(&mut self) {
        match &mut self.0 {
            None => std::future::pending().await,
            Some((interrupt, terminate)) => tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            },
        }
    }
}
