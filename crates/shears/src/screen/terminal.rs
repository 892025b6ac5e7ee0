//! Takes the terminal, and restores it however the program ends.

use std::io::{self, Stdout};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};

/// Whether we have taken the terminal.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Held while a frame is drawn.
static PICTURE: Mutex<()> = Mutex::new(());

/// A terminal that we have taken.
pub(super) struct Drawing(Terminal<CrosstermBackend<Stdout>>);

impl Drawing {
    /// Takes the terminal: alternate screen, hidden cursor, raw mode.
    pub(super) fn enter() -> io::Result<Drawing> {
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let entered = execute!(io::stdout(), EnterAlternateScreen, Hide);
        let terminal = entered.and_then(|()| {
            let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
            // Not every terminal has an alternate screen that starts empty.
            terminal.clear()?;
            Ok(terminal)
        });
        if terminal.is_err() {
            leave();
        }
        Ok(Drawing(terminal?))
    }

    /// Draws a frame, unless the terminal was restored.
    pub(super) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let _held = PICTURE.lock();
        if TAKEN.load(Ordering::SeqCst) {
            self.0.draw(picture)?;
        }
        Ok(())
    }
}

/// Restores the terminal, if it was taken. Works from any thread, even one that panics.
pub(crate) fn leave() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // Waits for a frame that is being drawn, which takes about a millisecond. A thread that panics
    // while drawing never releases the lock.
    let mut held = PICTURE.try_lock();
    for _ in 0..20 {
        if held.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
        held = PICTURE.try_lock();
    }
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
}
