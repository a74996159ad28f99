//! What the operator writes, and what it means: parse → check → plan, all pure.
//!
//! Nothing in this crate touches the system: a spec is text, a plan is a value. The same text on
//! every host gives plans that agree with each other.
//!
//! ```
//! # use hyperspector_spec::Spec;
//! let text = r#"
//! [host.web1]
//! [hyperspector.alpha]
//! network = "10.66.0.0/16"
//! [hyperspector.alpha.portspace.nids]
//! on = ["web1"]
//! command = ["suricata", "--af-packet=eth0"]
//! watch.packets = ["eth0"]
//! "#;
//! let spec = Spec::parse(text).unwrap();
//! let plan = spec.plan("web1").unwrap();
//! assert_eq!(plan.hyperspectors[0].portspaces[0].space.hostname, "nids.web1");
//!
//! let errors = Spec::parse("[hosts.web1]").unwrap_err();
//! let line = "fleet.toml:1:2: unknown key `hosts` in the file; did you mean `host`?";
//! assert_eq!(errors.lines("fleet.toml", "[hosts.web1]"), line);
//! ```

mod addresses;
mod check;
mod errors;
mod facts;
mod masks;
mod model;
pub mod plan;
mod planner;
mod read;
mod reader;
mod units;
mod words;

pub use errors::{Errors, Span, SpecError};
pub use facts::Facts;
pub use masks::BASE_MASK;

use addresses::Assigned;
use model::{Host, Model};
use plan::HostPlan;
use reader::Problems;

/// A spec without mistakes: the whole fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    model: Model,
    /// In the order of the model's HyperSpectors.
    addresses: Vec<Assigned>,
}

impl Spec {
    /// Reads and checks a spec; the errors are all that it has, not just the first.
    pub fn parse(text: &str) -> Result<Self, Errors> {
        let problems = Problems::default();
        let model = read::read(text, &problems).unwrap_or_default();
        check::check(&model, &problems);
        let addresses =
            model.hyperspectors.iter().map(|h| addresses::assign(h, &problems)).collect();
        problems.into_result()?;
        Ok(Self { model, addresses })
    }

    /// The names of the hosts, in the order of the file.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.model.hosts.iter().map(|host| host.name.value.as_str())
    }

    /// The names of the servers that the file declares, in its order.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.model.servers.iter().map(|server| server.name.value.as_str())
    }

    /// The names of the HyperSpectors, in the order of the file.
    pub fn hyperspectors(&self) -> impl Iterator<Item = &str> {
        self.model.hyperspectors.iter().map(|hyperspector| hyperspector.name.value.as_str())
    }

    /// What is allowed and worth knowing, such as `ids = "host"`, in the order of the file.
    pub fn notes(&self) -> Vec<SpecError> {
        check::notes(&self.model)
    }

    /// What `host` should have.
    pub fn plan(&self, host: &str) -> Result<HostPlan, Errors> {
        let host = self.host(host)?;
        Ok(planner::plan(&self.model, &self.addresses, host))
    }

    /// Checks that what `host` needs of itself is there: commands, directories, interfaces.
    pub fn verify(&self, host: &str, facts: &dyn Facts) -> Result<(), Errors> {
        self.host(host)?;
        let problems = Problems::default();
        facts::verify(&self.model, host, facts, &problems);
        problems.into_result()
    }

    fn host(&self, name: &str) -> Result<&Host, Errors> {
        self.model.host(name).ok_or_else(|| {
            let hosts: Vec<_> = self.hosts().collect();
            let list = hosts.join(", ");
            let help = match words::nearest(name, hosts.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? hosts in this file: {list}"),
                None => words::suggest(name, "hosts in this file", &hosts),
            };
            SpecError::whole_file(format!("host `{name}` is not in this file")).help(help).into()
        })
    }
}
