{{- define "apivip.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "apivip.selectorLabels" -}}
app.kubernetes.io/name: apivip
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "apivip.labels" -}}
{{ include "apivip.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "apivip.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "apivip.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "apivip.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- with .Values.image.digest -}}@{{ . }}{{- end -}}
{{- end -}}

{{/* The port of adminListen, which the kubelet's probes and Prometheus ask. */}}
{{- define "apivip.adminPort" -}}
{{- regexFind "[0-9]+$" .Values.adminListen -}}
{{- end -}}

{{/* Where the kubelet's probes ask: a daemon that listens on all addresses also listens on loopback. */}}
{{- define "apivip.probedHost" -}}
{{- if hasPrefix "[" .Values.adminListen -}}::1{{- else -}}127.0.0.1{{- end -}}
{{- end -}}

{{/* The securityContext of the container, with the SELinux options. */}}
{{- define "apivip.securityContext" -}}
{{- $context := deepCopy .Values.securityContext -}}
{{- with .Values.seLinuxOptions -}}
{{- $_ := set $context "seLinuxOptions" . -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}
