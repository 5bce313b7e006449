"""GPU: is the device full, hot or idle, and are graphs and precision as wished?"""

from deploy.grafana.panels import BAD, WARN, Board, Query, Words, lines

_DEVICE = '{device=~"$device"}'
_CLEAR = "transparent"


def board() -> Board:
    """What NVML says, and what workers do on the device."""
    question = "Is a device full, hot or idle, and do batches run as they should? Empty on machines without a GPU."
    return Board("gpu", "GPU", question, ("device", "model")).add(
        lines(
            Words("Memory used", "Share of the device's. Near 1 the next version finds no room and is refused."),
            "percentunit",
            Query(
                f'sum by (device) (serving_device_memory_bytes{{device=~"$device",kind="used"}})'
                f" / sum by (device) (serving_device_memory_bytes{_DEVICE})",
                "{{device}}",
            ),
            steps=((None, _CLEAR), (0.95, BAD)),
            bounds=(0, 1),
        ),
        lines(
            Words("Utilisation", "Share of time in which a kernel ran. High with a long queue: another device."),
            "percentunit",
            Query(f"serving_device_utilisation_ratio{_DEVICE}", "{{device}}"),
            bounds=(0, 1),
        ),
        lines(
            Words("Power", "What the device draws. At its limit the clock falls."),
            "watt",
            Query(f"serving_device_power_watts{_DEVICE}", "{{device}}"),
        ),
        lines(
            Words("Temperature", "Over 85 °C it slows itself: look at the cooling."),
            "celsius",
            Query(f"serving_device_temperature_celsius{_DEVICE}", "{{device}}"),
            steps=((None, _CLEAR), (80, WARN), (85, BAD)),
        ),
        lines(
            Words("Clock", "Of the multiprocessors. Falls under load: too hot, or at the power limit."),
            "hertz",
            Query(f"serving_device_sm_clock_hertz{_DEVICE}", "{{device}}"),
        ),
        lines(
            Words("Memory by model", "Of the loaded versions, on the CPU too. Budgets: SLUICE_MODEL_BUDGETS."),
            "bytes",
            Query('sum by (model) (serving_model_bytes{model=~"$model"})', "{{model}}"),
            stacked=True,
        ),
        lines(
            Words("Time on the device", "p99 and median of the device stage, all models."),
            "s",
            Query('stage:serving_stage_seconds:p99_rate5m{stage="device"}', "p99"),
            Query('stage:serving_stage_seconds:p50_rate5m{stage="device"}', "median"),
        ),
        lines(
            Words("Hits in device memory", "Share of row lookups found there. Low for long: more rows on the device."),
            "percentunit",
            Query(
                'sum by (view) (rate(serving_device_tier_lookups_total{outcome="hit"}[$__rate_interval]))'
                " / sum by (view) (rate(serving_device_tier_lookups_total[$__rate_interval]))",
                "{{view}}",
            ),
            bounds=(0, 1),
        ),
        lines(
            Words("Rows in device memory", "Resident, by view."),
            "none",
            Query("sum by (view) (serving_device_tier_rows)", "{{view}}"),
        ),
        lines(
            Words("Forward passes by way", "graph: replayed; eager: kernel by kernel, slower for small batches."),
            "ops",
            Query('sum by (how) (rate(serving_graph_passes_total{model=~"$model"}[$__rate_interval]))', "{{how}}"),
            span=12,
        ),
        lines(
            Words(
                "Fallbacks",
                "Versions that run otherwise than asked: precision (would rank otherwise), compile (failed), graph.",
            ),
            "none",
            Query('sum by (model) (serving_precision_fallbacks_total{model=~"$model"})', "{{model}} precision"),
            Query('sum by (model) (serving_compile_fallbacks_total{model=~"$model"})', "{{model}} compile"),
            Query(
                'sum by (model, reason) (serving_graph_fallbacks_total{model=~"$model"})', "{{model}} graph {{reason}}"
            ),
            span=12,
        ),
    )
