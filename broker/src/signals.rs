//! Being told to end: Ctrl-C by people, SIGTERM by whatever supervises programs.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a program to end in order. From when it is made they do not end the process by themselves.
pub(crate) struct Endings(Option<(Signal, Signal)>);

impl Endings {
    /// Must be called on a tokio runtime.
    pub(crate) fn new() -> Endings {
        let both = signal(SignalKind::interrupt()).ok().zip(signal(SignalKind::terminate()).ok());
        if both.is_none() {
            tracing::warn!("signals cannot be received; they end the process at once");
        }
        Endings(both)
    }

    /// Waits for the next one; for ever where signals cannot be heard, and then they end the process.
    pub(crate) async fn next(&mut self) {
        match &mut self.0 {
            None => std::future::pending().await,
            Some((interrupt, terminate)) => tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            },
        }
    }
}
