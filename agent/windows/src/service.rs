//! The agent as a service of Windows.

use crate::event_log;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use windows_service::service::{
    PowerEventParam, ServiceAccess, ServiceAction, ServiceActionType, ServiceControl,
    ServiceControlAccept, ServiceErrorControl, ServiceExitCode, ServiceFailureActions,
    ServiceFailureResetPeriod, ServiceInfo, ServiceSidType, ServiceStartType, ServiceState,
    ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};

/// What the service is called.
pub const NAME: &str = "denyut-agent";
/// As whom it runs: who may do least.
const ACCOUNT: &str = r"NT AUTHORITY\LocalService";
/// How long a stop may take: what is left is delivered for 3 s.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// What the system asks of the running service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Stop.
    Stop,
    /// Stop: the machine shuts down.
    Shutdown,
    /// The machine goes to sleep.
    Suspend,
    /// It is awake again.
    Resume,
}

impl Asked {
    /// All of it.
    const ALL: [Self; 4] = [Self::Stop, Self::Shutdown, Self::Suspend, Self::Resume];

    /// The word for it, by which one program passes it on to another.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Shutdown => "shutdown",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
        }
    }

    /// What the word is for.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|asked| asked.as_str() == word)
    }
}

/// Why something could not be done with the service.
#[derive(Debug)]
pub enum ServiceError {
    /// The service manager's word.
    Manager(windows_service::Error),
    /// The registry's.
    Registry(std::io::Error),
    /// It is still not what it should be.
    Slow(&'static str),
}

/// The system's `ERROR_SERVICE_DOES_NOT_EXIST`, `ERROR_ACCESS_DENIED`, `ERROR_SERVICE_EXISTS` and `ERROR_INVALID_LEVEL`.
const MISSING: i32 = 1060;
const DENIED: i32 = 5;
const EXISTS: i32 = 1073;
const UNKNOWN_LEVEL: i32 = 124;

impl ServiceError {
    fn code(&self) -> Option<i32> {
        match self {
            Self::Manager(windows_service::Error::Winapi(error)) => error.raw_os_error(),
            _ => None,
        }
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code(), self) {
            (Some(MISSING), _) => write!(
                f,
                "the service is not installed; `denyut-agent service install` does it"
            ),
            (Some(DENIED), _) => write!(f, "it takes an administrator: run it as one"),
            (Some(EXISTS), _) => write!(f, "the service is installed already"),
            (_, Self::Manager(windows_service::Error::Winapi(error))) => write!(f, "{error}"),
            (_, Self::Manager(error)) => write!(f, "{error}"),
            (_, Self::Registry(error)) => write!(f, "{error}"),
            (_, Self::Slow(should)) => write!(
                f,
                "the service is not {should} after {STOPS_WITHIN:?}; the Event Log (Application, {NAME}) may say why"
            ),
        }
    }
}

impl std::error::Error for ServiceError {}

impl From<windows_service::Error> for ServiceError {
    fn from(error: windows_service::Error) -> Self {
        Self::Manager(error)
    }
}

fn manager(access: ServiceManagerAccess) -> Result<ServiceManager, ServiceError> {
    Ok(ServiceManager::local_computer(None::<&str>, access)?)
}

fn open(access: ServiceAccess) -> Result<windows_service::service::Service, ServiceError> {
    Ok(manager(ServiceManagerAccess::CONNECT)?.open_service(NAME, access)?)
}

/// Installs the service: this program with these arguments, from each start of the machine on; started anew when it fails. One that is there is changed.
pub fn install(program: &Path, arguments: &[OsString]) -> Result<(), ServiceError> {
    let manager = manager(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: "denyut agent".into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: program.to_owned(),
        launch_arguments: arguments.to_vec(),
        dependencies: Vec::new(),
        account_name: Some(ACCOUNT.into()),
        account_password: None,
    };
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START;
    let service = match manager
        .create_service(&info, access)
        .map_err(ServiceError::from)
    {
        Err(error) if error.code() == Some(EXISTS) => {
            let service = manager.open_service(NAME, access)?;
            service.change_config(&info)?;
            service
        }
        made => made?,
    };
    service
        .set_description("Probes the links of this office and reports to the denyut collector.")?;
    // An identity of its own among all that runs as this account: the data folder is open to it alone.
    known(service.set_config_service_sid_info(ServiceSidType::Unrestricted))?;
    let again = |after| ServiceAction {
        action_type: ServiceActionType::Restart,
        delay: Duration::from_secs(after),
    };
    known(service.update_failure_actions(ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_secs(24 * 3_600)),
        reboot_msg: None,
        command: None,
        actions: Some(vec![again(5), again(30), again(60)]),
    }))?;
    known(service.set_failure_actions_on_non_crash_failures(true))?;
    event_log::register().map_err(ServiceError::Registry)
}

/// A setting, unless the system does not know of it: Wine does not know all that every Windows since 7 does.
fn known(set: windows_service::Result<()>) -> Result<(), ServiceError> {
    match set.map_err(ServiceError::from) {
        Err(error) if error.code() == Some(UNKNOWN_LEVEL) => Ok(()),
        set => set,
    }
}

/// Stops the service and removes it.
pub fn uninstall() -> Result<(), ServiceError> {
    stop()?;
    open(ServiceAccess::DELETE)?.delete()?;
    event_log::unregister();
    Ok(())
}

/// Starts the service, if it does not run.
pub fn start() -> Result<(), ServiceError> {
    let service = open(ServiceAccess::START | ServiceAccess::QUERY_STATUS)?;
    if service.query_status()?.current_state == ServiceState::Stopped {
        service.start::<&str>(&[])?;
    }
    reaches(&service, ServiceState::Running, "running")
}

/// Stops the service, if it runs.
pub fn stop() -> Result<(), ServiceError> {
    let service = open(ServiceAccess::STOP | ServiceAccess::QUERY_STATUS)?;
    if service.query_status()?.current_state != ServiceState::Stopped {
        service.stop()?;
    }
    reaches(&service, ServiceState::Stopped, "stopped")
}

/// How the service is, in one word; `None` if it is not installed.
pub fn state() -> Result<Option<&'static str>, ServiceError> {
    let service = match open(ServiceAccess::QUERY_STATUS) {
        Err(error) if error.code() == Some(MISSING) => return Ok(None),
        opened => opened?,
    };
    Ok(Some(match service.query_status()?.current_state {
        ServiceState::Running => "running",
        ServiceState::Stopped => "stopped",
        ServiceState::StartPending => "starting",
        ServiceState::StopPending => "stopping",
        _ => "paused",
    }))
}

fn reaches(
    service: &windows_service::service::Service,
    state: ServiceState,
    name: &'static str,
) -> Result<(), ServiceError> {
    let until = Instant::now() + STOPS_WITHIN;
    while service.query_status()?.current_state != state {
        if Instant::now() >= until {
            return Err(ServiceError::Slow(name));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// What the service does, until the system asks it to stop; whether it ended well.
type Work = Box<dyn Fn(UnboundedReceiver<Asked>) -> bool + Send + Sync>;

static WORK: OnceLock<Work> = OnceLock::new();

define_windows_service!(service_main, serve);

/// Hands this process to the service manager, which started it; returns when the service has stopped.
pub fn dispatch(
    work: impl Fn(UnboundedReceiver<Asked>) -> bool + Send + Sync + 'static,
) -> Result<(), ServiceError> {
    // One process is one service: a second call would do the first one's work.
    WORK.get_or_init(|| Box::new(work));
    Ok(service_dispatcher::start(NAME, service_main)?)
}

fn serve(_arguments: Vec<OsString>) {
    let (asks, asked) = unbounded_channel();
    let handler = move |control| {
        let ask = match control {
            ServiceControl::Stop => Some(Asked::Stop),
            ServiceControl::Preshutdown | ServiceControl::Shutdown => Some(Asked::Shutdown),
            ServiceControl::PowerEvent(PowerEventParam::Suspend) => Some(Asked::Suspend),
            ServiceControl::PowerEvent(PowerEventParam::ResumeAutomatic) => Some(Asked::Resume),
            ServiceControl::PowerEvent(_) | ServiceControl::Interrogate => None,
            _ => return ServiceControlHandlerResult::NotImplemented,
        };
        if let Some(ask) = ask {
            // Nobody listens any more: it has stopped.
            asks.send(ask).ok();
        }
        ServiceControlHandlerResult::NoError
    };
    let Ok(handle) = service_control_handler::register(NAME, handler) else {
        return; // the manager sees the process end
    };
    let status = |state, accepts, code| ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: accepts,
        exit_code: code,
        checkpoint: 0,
        wait_hint: Duration::ZERO,
        process_id: None,
    };
    // Before the others of the machine, while there is a network to say goodbye by.
    let accepts = ServiceControlAccept::STOP
        | ServiceControlAccept::PRESHUTDOWN
        | ServiceControlAccept::POWER_EVENT;
    let running = status(ServiceState::Running, accepts, ServiceExitCode::Win32(0));
    handle.set_service_status(running).ok();
    let well = WORK.get().is_some_and(|work| work(asked));
    let code = if well {
        ServiceExitCode::Win32(0)
    } else {
        ServiceExitCode::ServiceSpecific(1)
    };
    let stopped = status(ServiceState::Stopped, ServiceControlAccept::empty(), code);
    handle.set_service_status(stopped).ok();
}
