//! The system's Event Log.

use crate::{NAME, wide};
use std::io;
use std::ptr::{null, null_mut};
use windows_registry::LOCAL_MACHINE;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE,
    RegisterEventSourceW, ReportEventW,
};

const KEY: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application\denyut-agent";
/// A program of the system whose message of this number is the text itself, so that we need no file of messages.
const MESSAGES: &str = r"%SystemRoot%\System32\EventCreate.exe";
const MESSAGE: u32 = 1;
/// Longer ones the system refuses.
const LONGEST: usize = 31_000;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something to mend.
    Error,
    /// Something to look at.
    Warning,
    /// What happens.
    Information,
}

/// The Event Log, opened to report to; closed when dropped.
#[derive(Debug)]
pub struct EventLog(HANDLE);

// SAFETY: the system's handle may be used by any thread, and by many at once.
unsafe impl Send for EventLog {}
// SAFETY: as above.
unsafe impl Sync for EventLog {}

impl EventLog {
    /// Opens it as the agent.
    pub fn open() -> io::Result<Self> {
        // SAFETY: the name ends with a zero.
        let handle = unsafe { RegisterEventSourceW(null(), wide(NAME).as_ptr()) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(handle))
    }

    /// Reports one event. What the log does not take is lost: there is nowhere to say so.
    pub fn report(&self, level: Level, text: &str) {
        let kind = match level {
            Level::Error => EVENTLOG_ERROR_TYPE,
            Level::Warning => EVENTLOG_WARNING_TYPE,
            Level::Information => EVENTLOG_INFORMATION_TYPE,
        };
        let short: String = text.chars().take(LONGEST).collect();
        let text = wide(&short);
        let texts = [text.as_ptr()];
        // SAFETY: one text is told and one is there, which ends with a zero; no data, no user.
        unsafe {
            ReportEventW(
                self.0,
                kind,
                0,
                MESSAGE,
                null_mut(),
                1,
                0,
                texts.as_ptr(),
                null(),
            );
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody uses it after this.
        unsafe { DeregisterEventSource(self.0) };
    }
}

/// Tells the system where the texts of the agent's events are.
pub(crate) fn register() -> io::Result<()> {
    let key = LOCAL_MACHINE.create(KEY)?;
    key.set_expand_string("EventMessageFile", MESSAGES)?;
    key.set_u32("TypesSupported", 7)?;
    Ok(())
}

/// Takes that back.
pub(crate) fn unregister() {
    // It may not be there.
    LOCAL_MACHINE.remove_tree(KEY).ok();
}
