"""The command that downloads a public data set."""

from __future__ import annotations

from typing import Annotated

import typer

from mrict_core.cli.progress import Bytes, say


def download(
    name: Annotated[str, typer.Argument(help="a data set: synthrad2023-task1, synthrad2023-task2")],
    dest: Annotated[
        str, typer.Option("--dest", help="target folder; none: MRICT_DATA, else data/", show_default=False)
    ] = "",
    list_files: Annotated[bool, typer.Option("--list", help="only print the record's files and sizes")] = False,
    keep_archive: Annotated[
        bool, typer.Option("--keep-archive", help="keep the zip next to the unpacked files")
    ] = False,
    url: Annotated[
        str, typer.Option("--url", help="a mirror of Zenodo; none: MRICT_ZENODO_URL, else https://zenodo.org")
    ] = "",
) -> None:
    """Download, verify and unpack a public data set; an interrupted download is resumed."""
    from mrict_core.data.fetch import synthrad2023 as steps
    from mrict_core.data.fetch.unpack import readable
    from mrict_core.data.fetch.zenodo import Zenodo
    from mrict_core.paths import data_root, shown

    wanted = steps.data_set(name)
    with Bytes() as bar:
        server = Zenodo(url, say=bar.say)
        print(f"{wanted.title}\nlicence: {wanted.licence}\ncite:    {wanted.citation}", flush=True)
        if list_files:
            for file in server.files(wanted.record):
                chosen = f"  <- {name}" if file.name == wanted.archive else ""
                print(f"{file.name:30s} {readable(file.size):>12s}  md5 {file.md5}{chosen}")
            return
        result = steps.download(name, dest or data_root(), server, keep_archive, bar)
    if not result.fresh:
        print(f"nothing to do: {shown(result.folder)} is complete")
    for region, discovery in result.found.items():
        print(f"{region}: {len(discovery.patients)} patients, {len(discovery.skipped)} skipped")
        for skip in discovery.skipped:
            say(f"skipped {skip.patient}: {skip.reason}")
    input_option = " --input cbct" if wanted.modality.name == "cbct" else ""
    print(f"data: {shown(result.folder)}; use it with --data {shown(result.folder.parent)}{input_option}")
