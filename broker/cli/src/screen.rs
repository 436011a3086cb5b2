//! Full-screen output on a terminal, which is restored afterwards.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::Notify;

use super::{error::CliError, output::Out};
use millstream::signals::ShutdownSignals;

/// The alternate screen, without a cursor.
const OPEN: &[u8] = b"\x1b[?1049h\x1b[?25l";
const CLOSE: &[u8] = b"\x1b[?25h\x1b[?1049l";
/// Lines and columns if the terminal does not report them.
const SIZE_DEFAULT: (usize, usize) = (24, 80);

/// The terminal while a command uses all of it.
pub(super) struct Screen {
    before: Termios,
    quit: Arc<Notify>,
    endings: ShutdownSignals,
}

impl Screen {
    /// Takes over the terminal. Must be called on a tokio runtime.
    pub(super) fn open() -> io::Result<Screen> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        // Keys arrive at once and are not echoed; Ctrl-C still sends a signal.
        silent.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &silent)?;
        let quit = Arc::new(Notify::new());
        let notify = quit.clone();
        // It waits for keys until the process ends.
        std::thread::spawn(move || {
            let mut key = [0];
            while io::stdin().read_exact(&mut key).is_ok() {
                if matches!(key[0], b'q' | b'Q') {
                    notify.notify_one();
                }
            }
        });
        let screen = Screen { before, quit, endings: ShutdownSignals::new() };
        screen.write(OPEN)?;
        Ok(screen)
    }

    /// Resolves when the user wants to quit.
    pub(super) async fn ended(&mut self) {
        tokio::select! {
            () = self.quit.notified() => {}
            _ = self.endings.next() => {}
        }
    }

    /// Shows the lines that fit.
    pub(super) fn show(&mut self, lines: &[String]) -> Result<(), CliError> {
        let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        let (rows, columns) =
            size.map_or(SIZE_DEFAULT, |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
        let mut out = Out::new();
        out.bytes(frame(lines, rows, columns).as_bytes())?;
        out.flush()
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout();
        out.write_all(bytes)?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = self.write(CLOSE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Overwrites the screen line by line, which avoids flicker. A truncated line is marked.
fn frame(lines: &[String], rows: usize, columns: usize) -> String {
    let shown = if lines.len() > rows { rows.saturating_sub(1) } else { lines.len() };
    let more = (shown < lines.len()).then(|| format!("… {} more lines", lines.len() - shown));
    let mut text = String::from("\x1b[H");
    for (at, line) in lines.iter().take(shown).chain(&more).enumerate() {
        if at > 0 {
            text.push_str("\r\n");
        }
        let signs: Vec<char> = line.chars().filter(|sign| !sign.is_control()).collect();
        match signs.len() > columns {
            true => text.extend(signs.iter().take(columns.saturating_sub(1)).chain(&['…'])),
            false => text.extend(signs),
        }
        text.push_str("\x1b[K");
    }
    text.push_str("\x1b[J");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_off_and_marked() {
        let lines = ["abcdef".to_string(), "b\x1b".to_string(), "c".to_string()];
        assert_eq!(frame(&lines, 3, 4), "\x1b[Habc…\x1b[K\r\nb\x1b[K\r\nc\x1b[K\x1b[J");
        assert_eq!(frame(&lines, 2, 20), "\x1b[Habcdef\x1b[K\r\n… 2 more lines\x1b[K\x1b[J");
    }
}
