//! What can be wrong with a backend.

use hither_memory::Operation;

/// The defect of a backend. Each breaks one promise; [`Worst`](Self::Worst) breaks many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    None,

    FindsNoInstance,
    IncludesServicesWithTheSamePrefix,
    IncludesServicesBelow,
    FailsOnAnUnknownService,
    DropsMetadata,
    ManglesText,
    ReturnsOneInstanceOnly,
    ReturnsOnePageOnly,
    FailsOnGarbage,
    CachesForEver,
    NamesAnotherService,

    RefusesToTakeOver,
    IgnoresTheClaim,
    RefusesEveryVacancy,
    RefusesItsOwn,
    RemembersExpiredOwners,
    IgnoresTheTtl,
    SharesOneLease,
    LosesConcurrentRegistrations,
    ChecksThenWrites,

    PromisesMoreThanGranted,
    DoesNotRenew,
    RenewsUnconditionally,
    SupersededLeaseRemovesItsSuccessor,
    SupersededLeaseUpdatesItsSuccessor,
    DoesNotRevoke,
    FailsTheSecondRevoke,
    IgnoresUpdates,
    UpdateProlongs,
    UpdateRemovesFirst,
    UpdateMayChangeTheId,
    UpdateMayChangeTheService,
    IgnoresADeletion,
    LosesItsLeaseWhenCancelled,

    NeverSendsAnEmptySnapshot,
    SkipsTheCurrentState,
    SilentAfterTheFirstSnapshot,
    SilentAfterASecond,
    MissesExpiries,
    SurvivesTheConnection,
    SilentAfterACut,
    EndsAtGarbage,
    BeginsWithAnOldSnapshot,
    OneWatchOnly,

    CatalogIsEmpty,
    CatalogIgnoresTheName,
    CatalogNeverForgets,

    /// An error becomes an empty list.
    ResolvesToNothing,
    /// An error becomes the last list.
    ResolvesToTheLastList,
    RegistersWithoutTheRegistry,
    RenewsWithoutTheRegistry,
    UpdatesWithoutTheRegistry,
    RevokesWithoutTheRegistry,
    RevertsAFailedUpdate,
    RevokesOnlyOnce,
    ReportsAnExpiredLease,
    WatchBeginsEmpty,
    WatchBecomesEmpty,
    WatchContinuesAfterItsError,
    ListsNoServices,
    ReportsPermanentErrors,
    ReportsUnexpectedErrors,
    NeverRecovers,

    /// This operation has no deadline.
    NoDeadline(Operation),
    /// The deadline applies to an open connection, and not to connecting.
    NoDeadlineToConnect(Operation),
    /// An open watch has no deadline.
    NoDeadlineOfAnOpenWatch,
    /// The first resolve of a service blocks its thread.
    BlocksItsThread,
    /// One call at a time, and the others wait.
    SerializesItsCalls,
    /// One call at a time, and one that was cancelled never ends.
    LeaksItsTurnWhenCancelled,

    ForgetsUnansweredRegistrations,
    UnansweredLeaseRemovesTheRecord,
    LosesItsLeaseWhenARenewalFails,

    /// Turns every error into an empty list, begins a watch empty when its read fails, and has no deadline anywhere.
    Worst,
}

impl Defect {
    pub(crate) fn has_no_deadline(self, operation: Operation, has_failed: bool) -> bool {
        match self {
            Self::NoDeadline(of) => of == operation,
            Self::NoDeadlineToConnect(of) => of == operation && has_failed,
            Self::Worst => true,
            _ => false,
        }
    }
}
