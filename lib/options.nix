# The option reference, docs/options.md, as text: our options as nixpkgs' library lists them.
{
  lib,
  pkgs,
}:
let
  evaluated = lib.evalModules {
    modules = [
      ../modules
      ../modules/laptop
      {
        _module.args = { inherit pkgs; };
        _module.check = false; # NixOS's own options are not there, and not asked for
      }
    ];
  };

  documented =
    options:
    lib.filter (option: option.visible && !option.internal) (lib.optionAttrSetToDocList options);

  plain = value: value.text or (lib.generators.toPretty { } value);
  # {option}`a.b`, {file}`c`, {env}`D` and {manpage}`e(5)` are nixpkgs' own marks.
  markdown =
    text:
    lib.replaceStrings
      [
        "{option}`"
        "{file}`"
        "{env}`"
        "{manpage}`"
      ]
      [
        "`"
        "`"
        "`"
        "`"
      ]
      (lib.trim (text.text or text));

  # A value of several lines gets a block of its own.
  shown =
    label: value:
    let
      text = markdown (plain value);
    in
    if (value._type or "") == "literalMD" then
      "- ${label}: ${text}\n"
    else if lib.hasInfix "\n" text then
      "- ${label}:\n\n  ```nix\n  ${lib.replaceStrings [ "\n" ] [ "\n  " ] text}\n  ```\n"
    else
      "- ${label}: `${text}`\n";

  entry =
    option:
    "## ${lib.replaceStrings [ "<" ">" ] [ "\\<" "\\>" ] option.name}\n${markdown option.description}\n\n"
    + "- Type: ${option.type}\n"
    + lib.optionalString (option ? default) (shown "Default" option.default)
    + lib.optionalString (option ? example) (shown "Example" option.example);

  entries = options: lib.concatMapStringsSep "\n" entry (documented options);
in
''
  # Options of services.flashpods
  Made from the modules by `./dev nix render`; do not edit. Those of a laptop are at the end.

''
+ entries evaluated.options.services.flashpods
+ ''

  # Options of programs.flashpods
  The laptop's, the same on NixOS and in home-manager.

''
+ entries evaluated.options.programs.flashpods
