"""The document of each command."""

from mnist_pipeline.cli.results import compared, images, listed, runs, work
from mnist_pipeline.cli.results.facts import Result

RESULTS: dict[str, type[Result]] = {
    "run": runs.RunResult,
    "backfill": work.BackfillResult,
    "runs": listed.RunsResult,
    "show": runs.ShowResult,
    "compare": compared.CompareResult,
    "images": images.ImagesResult,
    "open": images.OpenResult,
    "report": work.ReportResult,
    "verify": work.VerifyResult,
    "accept": work.DecisionResult,
    "withdraw": work.DecisionResult,
    "baseline set": work.BaselineResult,
    "baseline clear": work.BaselineResult,
    "baseline show": work.BaselineResult,
    "promote": work.PromoteResult,
    "fetch": work.FetchResult,
    "train": work.TrainResult,
    "setup": work.SetupResult,
    "doctor": work.DoctorResult,
    "prune": work.PruneResult,
    "reindex": work.ReindexResult,
    "credentials": work.CredentialsResult,
    "--version": work.VersionResult,
}
