//! Raw mode and the alternate screen, and back again, whatever happens.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, TryLockError};
use std::time::Duration;

use anyhow::Context as _;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{event, execute, queue};

/// Whether the screen has the terminal.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Held while something is written to the terminal, so that nothing is drawn into a terminal that was given back.
static WRITING: Mutex<()> = Mutex::new(());

static PANIC_HOOK: Once = Once::new();

/// How often and for how long a restoring thread waits for one that draws; a stalled terminal must not keep it.
const ATTEMPTS: u32 = 20;
const ATTEMPT: Duration = Duration::from_millis(10);

/// The terminal while the screen has it.
#[derive(Debug)]
pub struct Guard {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Guard {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When stdout is no terminal, or it refuses.
    pub fn enter() -> anyhow::Result<Self> {
        anyhow::ensure!(
            io::stdout().is_terminal(),
            "--tui needs a terminal, and stdout is none\nhint: leave --tui out, or -o FILE writes the account to a file"
        );
        PANIC_HOOK.call_once(|| {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                hook(panic);
            }));
        });
        // From here on the terminal's changes of size are heard; one between its first size and this would be missed.
        event::poll(Duration::ZERO).context("listening to the terminal")?;
        let mut guard = Self { terminal: blank()? };
        guard.take_again()?;
        Ok(guard)
    }

    /// Takes the terminal after it was given back.
    ///
    /// # Errors
    /// When it refuses.
    pub fn take_again(&mut self) -> anyhow::Result<()> {
        let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // First, so that whatever comes in between is taken back.
        ACTIVE.store(true, Ordering::SeqCst);
        // Who stopped us may have left the terminal in another mode, of which crossterm knows nothing: once off, then on.
        let _ = disable_raw_mode();
        enable_raw_mode().context("setting the terminal to raw mode")?;
        execute!(io::stdout(), EnterAlternateScreen, Hide, Clear(ClearType::All))
            .context("switching to the terminal's other screen")?;
        self.terminal = blank()?;
        Ok(())
    }

    /// Draws, unless the terminal was given back meanwhile. A terminal that can shows the frame at once, not in parts.
    ///
    /// # Errors
    /// When the terminal cannot be written to.
    pub fn draw(&mut self, draw: impl FnOnce(&mut ratatui::Frame<'_>)) -> anyhow::Result<()> {
        let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if ACTIVE.load(Ordering::SeqCst) {
            queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate).context("drawing the screen")?;
            self.terminal.draw(draw).context("drawing the screen")?;
            execute!(self.terminal.backend_mut(), EndSynchronizedUpdate).context("drawing the screen")?;
        }
        Ok(())
    }

    /// Draws everything anew the next time.
    ///
    /// # Errors
    /// When the terminal cannot be written to.
    pub fn forget(&mut self) -> anyhow::Result<()> {
        let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if ACTIVE.load(Ordering::SeqCst) {
            execute!(io::stdout(), Clear(ClearType::All)).context("clearing the screen")?;
            self.terminal = blank()?;
        }
        Ok(())
    }
}

/// A terminal of which nothing is known but that it is empty. `Terminal::clear` would ask it where its cursor is, and
/// wait for the answer.
fn blank() -> anyhow::Result<Terminal<CrosstermBackend<BufWriter<Stdout>>>> {
    let backend = CrosstermBackend::new(BufWriter::with_capacity(64 * 1024, io::stdout()));
    Terminal::new(backend).context("asking the terminal for its size")
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was. Does nothing where there is no screen; may be called from any thread, at any time.
pub fn restore() {
    if !ACTIVE.swap(false, Ordering::SeqCst) {
        return;
    }
    let _writing = wait_for_writer();
    // Best effort: where a terminal is gone, there is nothing to restore.
    let _ = execute!(io::stdout(), EndSynchronizedUpdate, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// The lock, or nothing when its holder is stuck, or is this very thread in the middle of a panic.
fn wait_for_writer() -> Option<MutexGuard<'static, ()>> {
    for _ in 0..ATTEMPTS {
        match WRITING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(ATTEMPT),
        }
    }
    None
}

/// Whether the screen covers what is written to stderr: progress and logs are left out then.
pub fn covers_stderr() -> bool {
    ACTIVE.load(Ordering::SeqCst) && io::stderr().is_terminal()
}

/// Stderr, but not into the screen.
#[derive(Debug)]
pub struct LogWriter;

/// For the log.
pub const fn log_writer() -> LogWriter {
    LogWriter
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if covers_stderr() { Ok(bytes.len()) } else { io::stderr().write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
