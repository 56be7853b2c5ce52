//! One program on one device: as a link (TCX) or as a filter (clsact).

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
};

use super::{
    Hook,
    pins::{self, Pinned},
};
use crate::{Attachment, Error, Result, bpffs::Paths};

/// Puts a program into its link, or makes the link, before those of the programs that come `after` it.
pub(super) fn link(
    program: &mut SchedClassifier,
    paths: &Paths,
    hook: Hook,
    after: &[Hook],
    device: &str,
) -> Result<Attachment> {
    let failed = |source| Error::Program { name: hook.program, source };
    let info = program.info().map_err(failed)?;
    let pin = pins::path(paths, hook.program, device);
    if let Some(pinned) = Pinned::read(&pin) {
        if pinned.tag == info.tag() && pinned.is_on(paths, &info)? {
            return Ok(Attachment::Kept);
        }
        let link: SchedClassifierLink = FdLink::from(PinnedLink::from_pin(&pin)?).try_into()?;
        let id = program.attach_to_link(link).map_err(failed)?;
        // The pin keeps it.
        drop(program.take_link(id).map_err(failed)?);
        return Ok(Attachment::Attached);
    }
    let next = after.iter().map(|next| pins::path(paths, next.program, device)).find(|pin| Pinned::read(pin).is_some());
    // Kept open until the kernel was asked: the order names its descriptor.
    let next: Option<SchedClassifierLink> = match next {
        Some(pin) => Some(FdLink::from(PinnedLink::from_pin(&pin)?).try_into()?),
        None => None,
    };
    let order = next.as_ref().map(LinkOrder::before_link).transpose()?.unwrap_or_default();
    let id = program.attach_with_options(device, hook.side, TcAttachOptions::TcxOrder(order)).map_err(failed)?;
    let link: FdLink = program.take_link(id).map_err(failed)?.try_into()?;
    let what = || format!("the link of {} on {device}", hook.program);
    link.pin(&pin).map_err(|source| Error::Pin { what: what(), source })?;
    Ok(Attachment::Attached)
}

/// Makes a program a filter of the device, in place of its like of an earlier daemon. Of several, the one with the lower
/// `priority` runs first.
pub(super) fn filter(program: &mut SchedClassifier, hook: Hook, priority: u16, device: &str) -> Result<()> {
    let failed = |source| Error::Program { name: hook.program, source };
    match tc::qdisc_add_clsact(device) {
        Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
        Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(failed(error.into())),
    }
    remove_filter(hook.program, hook.side, device);
    let options = TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() });
    let id = program.attach_with_options(device, hook.side, options).map_err(failed)?;
    // It would be taken off when dropped; it shall outlive this process.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(())
}

/// Takes a filter off a device. Mostly there is none, and that is no error.
pub(super) fn remove_filter(program: &str, side: TcAttachType, device: &str) {
    let _ = tc::qdisc_detach_program(device, side, program);
}
