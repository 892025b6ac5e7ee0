//! Detection of AMX.

use std::arch::asm;
use std::sync::OnceLock;

/// Whether the processor has AMX with bf16 and the system permits its use. The first call requests
/// permission, without which a tile instruction kills the process.
pub(crate) fn has_amx() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| has_instructions() && has_permission())
}

/// Intel SDM volume 1, section 13.3: bits 22 and 24 of `CPUID.7.0:EDX` are AMX-BF16 and AMX-TILE;
/// bits 17 and 18 of `XCR0` say that the system saves the tiles.
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    const AMX: u32 = 1 << 22 | 1 << 24;
    const TILES: u32 = 3 << 17;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let enabled: u32;
    // SAFETY: `xgetbv` exists if OSXSAVE is set.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack));
    }
    __cpuid_count(7, 0).edx & AMX == AMX && enabled & TILES == TILES
}

/// Linux, Documentation/arch/x86/xstate.rst: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`,
/// for all threads of the process.
#[cfg(target_os = "linux")]
fn has_permission() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call only changes the permissions of the process.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn has_permission() -> bool {
    false
}
