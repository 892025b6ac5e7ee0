//! The terminal, which is left as it was found, however the program ends.

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

/// Whether the terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Held while a picture is drawn.
static PICTURE: Mutex<()> = Mutex::new(());

/// A terminal that was taken.
pub(super) struct Drawing(Terminal<CrosstermBackend<Stdout>>);

impl Drawing {
    /// Takes the terminal: its other screen, without cursor, and keys as they are pressed.
    pub(super) fn enter() -> io::Result<Drawing> {
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let entered = execute!(io::stdout(), EnterAlternateScreen, Hide);
        let terminal = entered.and_then(|()| {
            let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
            // Not every terminal has another screen, or an empty one.
            terminal.clear()?;
            Ok(terminal)
        });
        if terminal.is_err() {
            leave();
        }
        Ok(Drawing(terminal?))
    }

    /// Draws a picture, unless the terminal was given back.
    pub(super) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let _held = PICTURE.lock();
        if TAKEN.load(Ordering::SeqCst) {
            self.0.draw(picture)?;
        }
        Ok(())
    }
}

/// Gives the terminal back, if it was taken. From any thread, also from one that panics.
pub(crate) fn leave() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // A picture that is being drawn comes first. It takes a millisecond; a thread that panics while
    // it draws never lets go.
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
