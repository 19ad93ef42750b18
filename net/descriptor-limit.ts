/** The process's limit of open descriptors, as any POSIX system tells it. */

/** @returns the soft limit, or Infinity where there is none or it can't be known */
export function readDescriptorLimit(): number {
  const report = process.report.getReport() as { userLimits?: { open_files?: { soft?: number | string } } };
  const soft = report.userLimits?.open_files?.soft;
  return typeof soft === 'number' ? soft : Number.POSITIVE_INFINITY;
}
