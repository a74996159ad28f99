//! The windows of a portspace.

use std::os::fd::BorrowedFd;

use hyperspector_space::cgroup::Cgroup;
use hyperspector_space::config::Rule;
use hyperspector_space::launch::Launched;
use hyperspector_spec::plan::{PortspaceName, PortspacePlan};

use crate::build::Site;
use crate::error::Error;
use crate::layout::{Layout, PortspaceDir};
use crate::process::ProcessId;
use crate::record::PortspaceRecord;
use crate::status::GuardStatus;

#[derive(Debug)]
pub(crate) struct Guard {}
impl Guard {
    pub(crate) fn adopt(_: &Layout) -> Option<Self> { None }
    pub(crate) fn start(_: &Layout) -> Result<Self, Error> { Ok(Self {}) }
    pub(crate) fn revive(&mut self, _: &Layout) -> Result<(), Error> { Ok(()) }
    pub(crate) fn remove(_: &Layout) -> Result<(), Error> { Ok(()) }
    pub(crate) fn status(&self, _: &Layout) -> GuardStatus { GuardStatus { pid: 0, interfaces: vec![], dropped: 0 } }
}
#[derive(Debug, Default)]
pub(crate) struct Windows {}
impl Windows {
    pub(crate) fn adopt(_: &PortspaceDir, _: &PortspaceRecord) -> Self { Self {} }
    pub(crate) fn broker_id(&self) -> Option<ProcessId> { None }
    pub(crate) fn revive(&mut self, _: &PortspaceDir, _: &mut PortspaceRecord, _: Option<&Guard>) -> Result<(), Error> { Ok(()) }
    pub(crate) fn describe(&self, _: &PortspaceDir) -> Option<serde_json::Value> { None }
}
pub(crate) fn open(_: &Site<'_>, _: &PortspaceDir, _: &PortspacePlan, _: &mut Launched, _: &Cgroup) -> Result<Windows, Error> { Ok(Windows {}) }
pub(crate) fn close(_: &Layout, _: &PortspaceName) -> Result<(), Error> { Ok(()) }
pub(crate) fn rules(_: &PortspacePlan) -> Vec<Rule> { Vec::new() }
pub(crate) fn shadows(_: &PortspacePlan, _: BorrowedFd<'_>) -> Result<(), Error> { Ok(()) }
