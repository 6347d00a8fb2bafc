# Prometheus over the host's two listeners with our alerts, and Grafana with our dashboard; by option.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.flashpods;
  inherit (cfg) monitoring;
  inherit (cfg.settings) http tokens;

  # Newer Grafanas come without a key for what they encrypt, and want one.
  grafanaKey = "/var/lib/grafana/flashpods-secret-key";

  scrape = job: host: port: {
    job_name = job;
    scrape_interval = monitoring.interval;
    static_configs = [ { targets = [ "${toString host}:${toString port}" ]; } ];
  };
in
{
  options.services.flashpods.monitoring = {
    enable = lib.mkEnableOption "Prometheus on this host, which scrapes Flashpods and has its alerts. Where they go is {option}`services.prometheus.alertmanagers`";

    interval = mkOption {
      type = types.strMatching "[0-9]+(s|m)";
      default = "15s";
      description = "How often Prometheus scrapes Flashpods, and how often it evaluates the alerts.";
    };

    retention = mkOption {
      type = types.strMatching "[0-9]+(h|d|w|y)";
      default = "30d";
      description = "How long Prometheus keeps what it scraped.";
    };

    grafana.enable = lib.mkEnableOption "Grafana on this host with Flashpods' dashboard, on 127.0.0.1:3000, which a laptop reaches by `ssh -L 3000:127.0.0.1:3000`";
  };

  config = lib.mkIf (cfg.enable && monitoring.enable) {
    assertions = [
      {
        assertion = http.metrics_host != null;
        message = ''
          services.flashpods.monitoring.enable scrapes the API, whose metrics are off: set
          services.flashpods.settings.http.metrics_host to "127.0.0.1", or disable monitoring.
        '';
      }
    ];

    services.prometheus = {
      enable = true;
      listenAddress = lib.mkDefault "127.0.0.1";
      retentionTime = monitoring.retention;
      ruleFiles = [ (pkgs.writeText "flashpods-alerts.yml" (builtins.readFile ./alerts.yml)) ];
      # By itself once a minute: an alert that is to hold for one would fire after two or three.
      globalConfig.evaluation_interval = lib.mkDefault monitoring.interval;
      # The jobs' names are the alerts'.
      scrapeConfigs = [
        (scrape "flashpods-api" http.metrics_host http.metrics_port)
        (scrape "flashpods-token-service" "127.0.0.1" tokens.metrics_port)
      ];
    };

    services.grafana = lib.mkIf monitoring.grafana.enable {
      enable = true;
      settings = {
        server.http_addr = lib.mkDefault "127.0.0.1";
        security.secret_key = lib.mkDefault "$__file{${grafanaKey}}";
      };
      provision = {
        enable = true;
        datasources.settings.datasources = [
          {
            name = "Flashpods";
            uid = "flashpods";
            type = "prometheus";
            url = "http://${config.services.prometheus.listenAddress}:${toString config.services.prometheus.port}";
          }
        ];
        dashboards.settings.providers = [
          {
            name = "Flashpods";
            options.path = "/etc/flashpods/dashboards";
          }
        ];
      };
    };

    systemd.services.grafana.preStart = lib.mkIf monitoring.grafana.enable (
      lib.mkBefore ''
        if [ ! -s ${grafanaKey} ]; then
          (umask 077 && head -c 32 /dev/urandom | base64 >${grafanaKey}.new)
          mv ${grafanaKey}.new ${grafanaKey}
        fi
      ''
    );

    environment.etc."flashpods/dashboards/flashpods.json" = lib.mkIf monitoring.grafana.enable {
      source = ./dashboard.json;
    };
  };
}
