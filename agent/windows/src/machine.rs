//! Clocks and names of the machine.

use std::ffi::OsString;
use std::io;
use std::os::windows::ffi::OsStringExt;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::time::Duration;
use windows_registry::{CURRENT_USER, Type};
use windows_sys::Win32::System::Com::CoTaskMemFree;
use windows_sys::Win32::System::SystemInformation::{
    ComputerNameDnsHostname, GetComputerNameExW, GetTickCount64,
};
use windows_sys::Win32::UI::Shell::{FOLDERID_ProgramData, SHGetKnownFolderPath};

/// Time since the machine started, suspend included; never set back. In steps of up to 16 ms.
pub fn uptime() -> Duration {
    // SAFETY: takes nothing.
    Duration::from_millis(unsafe { GetTickCount64() })
}

/// An id that is another after each start of the machine: drawn once, and kept in a key of the registry that is gone with the start.
pub fn boot_id() -> io::Result<[u8; 16]> {
    const KEY: &str = r"Software\denyut\boot";
    let key = CURRENT_USER
        .options()
        .read()
        .write()
        .create()
        .volatile()
        .open(KEY)?;
    let known = key.get_value("id").ok();
    if let Some(id) = known.and_then(|value| <[u8; 16]>::try_from(&*value).ok()) {
        return Ok(id);
    }
    let id = uuid::Uuid::new_v4().into_bytes();
    key.set_bytes("id", Type::Bytes, &id)?;
    Ok(id)
}

/// Where programs keep what changes, for all users; `None` if the system does not say.
pub fn program_data() -> Option<PathBuf> {
    let mut path: *mut u16 = null_mut();
    // SAFETY: the number of the folder lives until the call returns, which writes one pointer.
    let told = unsafe { SHGetKnownFolderPath(&FOLDERID_ProgramData, 0, null_mut(), &mut path) };
    let found = (told == 0 && !path.is_null()).then(|| {
        // SAFETY: the system put a text there that ends with a zero.
        let text = unsafe {
            let length = (0..).take_while(|at| *path.add(*at) != 0).count();
            std::slice::from_raw_parts(path, length)
        };
        OsString::from_wide(text).into()
    });
    // SAFETY: it is ours to free, whatever was told, and nobody uses it after this.
    unsafe { CoTaskMemFree(path.cast()) };
    found
}

/// The machine's name.
pub fn hostname() -> String {
    let mut name = [0u16; 256];
    let mut length = name.len() as u32;
    // SAFETY: the buffer is as long as told.
    let told =
        unsafe { GetComputerNameExW(ComputerNameDnsHostname, name.as_mut_ptr(), &mut length) };
    match told {
        0 => String::new(),
        _ => String::from_utf16_lossy(&name[..(length as usize).min(name.len())]),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_boot_keeps_its_id() {
        let id = super::boot_id().expect("an id");
        assert_ne!(id, [0; 16]);
        assert_eq!(super::boot_id().expect("an id"), id);
    }
}
