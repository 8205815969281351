//! All inputs and outputs: which there are, and how each gets from its section of the configuration to running.

use anyhow::{Context as _, Error, Result};

use super::service::{Daemon, Slot};
use super::{observe, statistics};
use crate::config::{self, Config, Gate};
use crate::inputs::{self, control, pipe};
use crate::outputs;

/// What is made while the process still has all its privileges.
pub(crate) struct Prepared {
    control: Option<(Gate, control::Input)>,
    pipe: Option<(Gate, pipe::Input)>,
}

impl Prepared {
    /// # Errors
    /// A file cannot be made.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let control = config.control.as_ref().map(|g| control::Input::prepare(g).map(|i| (g.clone(), i)));
        let pipe = config.pipe.as_ref().map(|g| pipe::Input::prepare(g).map(|i| (g.clone(), i)));
        Ok(Self {
            control: control.transpose().context("cannot open the control socket (inputs.control)")?,
            pipe: pipe.transpose().context("cannot open the named pipe (inputs.pipe)")?,
        })
    }
}

/// The inputs and outputs that run.
pub(crate) struct Services {
    control: Slot<Gate>,
    control_tcp: Slot<config::ControlTcp>,
    pipe: Slot<Gate>,
    flowd_go: Slot<config::FlowdGo>,
    firefly_input: Slot<config::FireflyInput>,
    xrootd: Slot<config::Xrootd>,
    statistics: Slot<config::Statistics>,
    observe: Slot<config::Observe>,
    firefly: Slot<config::Firefly>,
    prometheus: Slot<config::Prometheus>,
    otlp: Slot<config::Otlp>,
    json: Slot<config::Json>,
    ipfix: Slot<config::Ipfix>,
}

impl Services {
    /// Starts what listens to the core: before anything happens, so that nothing is missed.
    ///
    /// # Errors
    /// The first that cannot be started.
    pub(crate) async fn start_outputs(config: &Config, daemon: &Daemon) -> Result<Self> {
        let mut services = Self {
            control: Slot::new("inputs.control"),
            control_tcp: Slot::new("inputs.control_tcp"),
            pipe: Slot::new("inputs.pipe"),
            flowd_go: Slot::new("inputs.flowd_go"),
            firefly_input: Slot::new("inputs.firefly"),
            xrootd: Slot::new("inputs.xrootd"),
            statistics: Slot::new("statistics"),
            observe: Slot::new(observe::NAME),
            firefly: Slot::new("outputs.firefly"),
            prometheus: Slot::new("outputs.prometheus"),
            otlp: Slot::new("outputs.otlp"),
            json: Slot::new("outputs.json"),
            ipfix: Slot::new("outputs.ipfix"),
        };
        services.outputs(config, daemon).await.into_iter().try_for_each(Err)?;
        Ok(services)
    }

    /// Starts what tells the core: once it is ready to hear.
    ///
    /// # Errors
    /// The first that cannot be started.
    pub(crate) async fn start_inputs(
        &mut self,
        prepared: Prepared,
        config: &Config,
        daemon: &Daemon,
    ) -> Result<()> {
        if let Some((gate, input)) = prepared.pipe {
            self.pipe.start(gate, input.service(daemon), daemon).await;
        }
        if let Some((gate, input)) = prepared.control {
            self.control.start(gate, input.service(daemon), daemon).await;
        }
        self.inputs(config, daemon).await.into_iter().try_for_each(Err)
    }

    /// Puts a changed configuration into force: what did not change goes on.
    ///
    /// # Errors
    /// One for each that could not be changed; it goes on as it was.
    pub(crate) async fn apply(&mut self, config: &Config, daemon: &Daemon) -> Vec<Error> {
        let mut errors = self.outputs(config, daemon).await;
        errors.extend(self.inputs(config, daemon).await);
        errors
    }

    async fn outputs(&mut self, config: &Config, daemon: &Daemon) -> Vec<Error> {
        let results = [
            self.statistics.set(config.statistics, daemon, statistics::prepare).await,
            self.observe.set(config.observe.clone(), daemon, observe::prepare).await,
            self.firefly.set(config.firefly.clone(), daemon, outputs::firefly::prepare).await,
            self.prometheus.set(config.prometheus.clone(), daemon, outputs::prometheus::prepare).await,
            self.otlp.set(config.otlp.clone(), daemon, outputs::otlp::prepare).await,
            self.json.set(config.json.clone(), daemon, outputs::json::prepare).await,
            self.ipfix.set(config.ipfix.clone(), daemon, outputs::ipfix::prepare).await,
        ];
        results.into_iter().filter_map(Result::err).collect()
    }

    async fn inputs(&mut self, config: &Config, daemon: &Daemon) -> Vec<Error> {
        let pipe = async |gate: &Gate, daemon: &Daemon| Ok(pipe::Input::prepare(gate)?.service(daemon));
        let control = async |gate: &Gate, daemon: &Daemon| Ok(control::Input::prepare(gate)?.service(daemon));
        let results = [
            self.pipe.set(config.pipe.clone(), daemon, pipe).await,
            self.control.set(config.control.clone(), daemon, control).await,
            self.control_tcp.set(config.control_tcp.clone(), daemon, control::tcp::prepare).await,
            self.flowd_go.set(config.flowd_go.clone(), daemon, inputs::flowd_go::prepare).await,
            self.firefly_input.set(config.firefly_input.clone(), daemon, inputs::firefly::prepare).await,
            self.xrootd.set(config.xrootd.clone(), daemon, inputs::xrootd::prepare).await,
        ];
        results.into_iter().filter_map(Result::err).collect()
    }

    /// Stops all: inputs first.
    pub(crate) async fn stop(mut self, daemon: &Daemon) {
        self.pipe.stop(daemon).await;
        self.control.stop(daemon).await;
        self.control_tcp.stop(daemon).await;
        self.flowd_go.stop(daemon).await;
        self.firefly_input.stop(daemon).await;
        self.xrootd.stop(daemon).await;
        self.statistics.stop(daemon).await;
        self.observe.stop(daemon).await;
        // Side by side: each may take its time to tell what waits.
        tokio::join!(
            self.firefly.stop(daemon),
            self.prometheus.stop(daemon),
            self.otlp.stop(daemon),
            self.json.stop(daemon),
            self.ipfix.stop(daemon),
        );
    }
}
