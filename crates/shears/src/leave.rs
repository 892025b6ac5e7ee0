//! Exiting a process that must not wait for the others of its job.

/// Exits without running exit handlers, which would wait for the other processes of the job. The
/// launcher ends those when it notices.
pub(crate) fn at_once(code: u8) -> ! {
    #[cfg(unix)]
    signal_hook::low_level::exit(i32::from(code));
    #[cfg(not(unix))]
    std::process::exit(i32::from(code))
}
