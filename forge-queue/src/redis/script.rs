//! The scripts: each a file beside, behind what all of them share.

use forge_redis::redis::Script;

/// The scripts of the queue. Every key lies in the one slot of the prefix's hash tag; times are the server's.
pub(super) struct Scripts {
    pub(super) enqueue: Script,
    pub(super) reserve: Script,
    pub(super) renew: Script,
    pub(super) settle: Script,
    pub(super) done: Script,
    pub(super) cancel: Script,
    pub(super) replay: Script,
    pub(super) limits: Script,
    pub(super) chord: Script,
    pub(super) overdue: Script,
    pub(super) restore: Script,
    pub(super) drop_waiting: Script,
    pub(super) schedule_due: Script,
    pub(super) schedule_write: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |text: &str| Script::new(&[include_str!("lua/common.lua"), text].concat());
        Self {
            enqueue: script(include_str!("lua/enqueue.lua")),
            reserve: script(include_str!("lua/reserve.lua")),
            renew: script(include_str!("lua/renew.lua")),
            settle: script(include_str!("lua/settle.lua")),
            done: script(include_str!("lua/done.lua")),
            cancel: script(include_str!("lua/cancel.lua")),
            replay: script(include_str!("lua/replay.lua")),
            chord: script(include_str!("lua/chord.lua")),
            overdue: script(include_str!("lua/overdue.lua")),
            restore: script(include_str!("lua/restore.lua")),
            limits: script(include_str!("lua/limits.lua")),
            drop_waiting: script(include_str!("lua/drop_waiting.lua")),
            schedule_due: script(include_str!("lua/schedule_due.lua")),
            schedule_write: script(include_str!("lua/schedule_write.lua")),
        }
    }
}
