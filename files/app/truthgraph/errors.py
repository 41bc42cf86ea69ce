"""The one failure that callers of the API are told about by name."""

DATABASE = "database"
ML_SERVICE = "ml_service"


class ComponentUnavailable(Exception):
    """A part that the API needs does not answer. The detail is shown to clients, so it holds no address or secret."""

    def __init__(self, component: str, detail: str, retry_after: str | None = None) -> None:
        super().__init__(detail)
        self.component = component
        self.detail = detail
        self.retry_after = retry_after
