//! Folders that only the service and administrators may open.

use crate::{NAME, wide};
use std::fs::OpenOptions;
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::{null, null_mut};
use windows_sys::Win32::Foundation::{ERROR_SUCCESS, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1, SE_FILE_OBJECT,
    SetNamedSecurityInfoW,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GetSecurityDescriptorDacl, GetSecurityDescriptorOwner,
    OWNER_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR,
    SECURITY_ATTRIBUTES,
};
use windows_sys::Win32::Storage::FileSystem::{CreateDirectoryW, FILE_FLAG_BACKUP_SEMANTICS};

/// Who may do what there, and in all that is made in it: the system, administrators, the service; and nobody by the folder above.
fn rights() -> String {
    format!(
        "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;{})",
        service_sid(NAME)
    )
}

/// The security identifier of a service: `S-1-5-80-` and the SHA-1 of its name in capitals, in UTF-16, as five numbers.
fn service_sid(name: &str) -> String {
    let name: Vec<u8> = name
        .to_uppercase()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &name);
    let numbers = digest.as_ref().chunks_exact(4).map(|four| {
        let number = four
            .iter()
            .rev()
            .fold(0u32, |n, byte| n << 8 | u32::from(*byte));
        format!("-{number}")
    });
    format!("S-1-5-80{}", numbers.collect::<String>())
}

/// A security descriptor that the system made, freed when dropped.
struct Descriptor(PSECURITY_DESCRIPTOR);

impl Descriptor {
    fn of(text: &str) -> io::Result<Self> {
        let mut made: PSECURITY_DESCRIPTOR = null_mut();
        // SAFETY: the text ends with a zero; one pointer is written.
        let told = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                wide(text).as_ptr(),
                SDDL_REVISION_1,
                &mut made,
                null_mut(),
            )
        };
        match told {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(Self(made)),
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the system allocated it so, and nobody uses it after this.
        unsafe { LocalFree(self.0) };
    }
}

/// Makes a folder that only the service and administrators may open; one that is there stays as it is.
pub fn private_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        std::fs::create_dir_all(above)?;
    }
    let descriptor = Descriptor::of(&rights())?;
    let attributes = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    let name = wide(&path.to_string_lossy());
    // SAFETY: the name ends with a zero; it and the descriptor live until the call returns.
    match unsafe { CreateDirectoryW(name.as_ptr(), &attributes) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes a folder, or takes one that is there with all that is in it, from whoever made it: administrators own it, and only they and
/// the service may open it. (Any user may make a folder where programs keep their data, before we come.)
pub fn take_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let descriptor = Descriptor::of(&format!("O:BA{}", rights()))?;
    let (mut owner, mut list) = (null_mut(), null_mut());
    let (mut present, mut defaulted) = (0, 0);
    // SAFETY: the descriptor is whole; one number or pointer is written through each of the others, pointing into it.
    let told = unsafe {
        GetSecurityDescriptorOwner(descriptor.0, &mut owner, &mut defaulted) != 0
            && GetSecurityDescriptorDacl(descriptor.0, &mut present, &mut list, &mut defaulted) != 0
    };
    if !told {
        return Err(io::Error::last_os_error());
    }
    let what = OWNER_SECURITY_INFORMATION
        | DACL_SECURITY_INFORMATION
        | PROTECTED_DACL_SECURITY_INFORMATION;
    let name = wide(&path.to_string_lossy());
    // SAFETY: the name ends with a zero; it and the descriptor, which owner and list are in, live until the call returns.
    let error = unsafe {
        SetNamedSecurityInfoW(
            name.as_ptr(),
            SE_FILE_OBJECT,
            what,
            owner,
            null_mut(),
            list,
            null(),
        )
    };
    match error {
        ERROR_SUCCESS => Ok(()),
        error => Err(io::Error::from_raw_os_error(error as i32)),
    }
}

/// What was made or renamed in this folder is on the disk.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)?
        .sync_all()
}

#[cfg(test)]
mod tests {
    /// That of the system's own installer, which is published.
    #[test]
    fn a_services_identifier_is_the_systems_own() {
        assert_eq!(
            super::service_sid("TrustedInstaller"),
            "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
        );
    }
}
