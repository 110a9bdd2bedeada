"""Help texts of `im2latex predict`, shared by the commands with and without the pipeline."""

IM2LATEX = "Pictures of formulas to LaTeX."
PREDICT = "Print the LaTeX of images, one line each; the file name comes first if there are several."
PREDICT_STATUS = "Exit status: 0 all images were read, 1 some were not."
IMAGE = "Files, folders, or - for standard input."
MODEL = (
    "Folder of a model, ONNX file or file of weights, or `reader`, which comes with im2latex; if not given, the model "
    "pushed last, else the reader."
)
CLEAN = r"Print LaTeX as a person would type it: x_i^2, \sin."
ALTERNATIVES = "Number of alternatives for each image, by beam search."
JSON = "Print one JSON object per line, with probabilities."
